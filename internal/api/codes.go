package api

import (
	"net/http"

	"github.com/neuronmill/neuronmill/tasks"
)

// The codes of problems that only the HTTP interface has. Those of package tasks come to
// them.
const (
	codeActionNotFound   = "action_not_found"
	codeAmbiguousAuth    = "ambiguous_auth"
	codeBudgetNotFound   = "budget_not_found"
	codeBodyBroken       = "body_broken"
	codeBodyTooLarge     = "body_too_large"
	codeBodyTooSlow      = "body_too_slow"
	codeContentType      = "content_type"
	codeCompressed       = "compressed_input"
	codeBusy             = "server_busy"
	codeCrossOrigin      = "cross_origin"
	codeCursorInvalid    = "cursor_invalid"
	codeEmptyBody        = "empty_body"
	codeExpectedObject   = "expected_object"
	codeFieldRange       = "field_range"
	codeFieldRequired    = "field_required"
	codeFieldType        = "field_type"
	codeHost             = "host_not_allowed"
	codeInvalidJSON      = "invalid_json"
	codeInvalidUTF8      = "invalid_utf8"
	codeKeyRate          = "key_rate_exceeded"
	codeMethod           = "method_not_allowed"
	codeNoLinks          = "no_links"
	codeNotAcceptable    = "not_acceptable"
	codeNotEnded         = "task_not_ended"
	codeNotFailed        = "task_not_failed"
	codeNotKept          = "task_not_kept"
	codeParameter        = "parameter_invalid"
	codePrecondition     = "precondition_failed"
	codeRange            = "range_not_satisfiable"
	codeRouteNotFound    = "route_not_found"
	codeScheduleExists   = "schedule_exists"
	codeScheduleNotFound = "schedule_not_found"
	codeScope            = "insufficient_scope"
	codeStopping         = "server_stopping"
	codeTimedOut         = "timed_out"
	codeTokenExpired     = "token_expired"
	codeTokenInvalid     = "token_invalid"
	codeTooManyActions   = "too_many_actions"
	codeTooManyAttempts  = "too_many_attempts"
	codeTooManySchedules = "too_many_schedules"
	codeUnauthorized     = "unauthorized"
	codeUnavailable      = "unavailable"
	codeUnknownField     = "unknown_field"
	codeWouldWait        = "would_wait"
)

// CodeInfo explains the code of a Problem.
type CodeInfo struct {
	Code    string
	Status  int
	Meaning string
	Advice  string
}

// ownCodes are the codes that package tasks does not have.
var ownCodes = []CodeInfo{
	{codeActionNotFound, http.StatusNotFound, "There is no such action, or it ended more than seven days ago.", "Use the id of an action that POST /v1/actions has started."},
	{codeAmbiguousAuth, http.StatusBadRequest, "The request has more than one credential.", "Send one header Authorization: Bearer KEY, and no key in the URL."},
	{codeBudgetNotFound, http.StatusNotFound, "There is no such cap.", "List the caps: GET /v1/budgets."},
	{codeBodyBroken, http.StatusBadRequest, "The body ended before it was complete.", "Send the whole body, with the length that the header says."},
	{codeBodyTooLarge, http.StatusRequestEntityTooLarge, "The body is larger than this route takes.", "Send less at a time. Audio goes to POST /v1/transcriptions or PUT /v1/uploads."},
	{codeBodyTooSlow, http.StatusRequestTimeout, "The body did not arrive in time.", "Send the request again over a faster connection."},
	{codeContentType, http.StatusUnsupportedMediaType, "The route takes another type of body.", "Send Content-Type: application/json; charset=utf-8 with a JSON body."},
	{codeCompressed, http.StatusUnsupportedMediaType, "The body is compressed.", "Send it without Content-Encoding."},
	{codeBusy, http.StatusServiceUnavailable, "The server has as many large bodies in memory as it may.", "Send the request again after Retry-After, or to another server. Smaller bodies wait less."},
	{codeCrossOrigin, http.StatusForbidden, "A browser sent the request from another site.", "Call the API from a backend, not from a page of another origin."},
	{codeCursorInvalid, http.StatusBadRequest, "The cursor was not made by this server for this list.", "Start again without a cursor, with the same filters for all pages."},
	{codeEmptyBody, http.StatusBadRequest, "The body is empty.", "Send a JSON object."},
	{codeExpectedObject, http.StatusBadRequest, "The body is not a JSON object.", "Send one JSON object; for many tasks use POST /v1/tasks:batch."},
	{codeFieldRange, http.StatusBadRequest, "A field has a value out of its range.", "Correct the field that errors names."},
	{codeFieldRequired, http.StatusBadRequest, "A field is missing.", "Add the field that errors names."},
	{codeFieldType, http.StatusBadRequest, "A field has the wrong type.", "Correct the field that errors names."},
	{codeHost, http.StatusMisdirectedRequest, "The header Host names another server.", "Use the address that the server listens on. A server for other names needs API keys."},
	{codeInvalidJSON, http.StatusBadRequest, "The body is not valid JSON.", "Correct the JSON; names must not repeat within an object."},
	{codeInvalidUTF8, http.StatusBadRequest, "The body is not valid UTF-8.", "Encode the text as UTF-8."},
	{codeKeyRate, http.StatusTooManyRequests, "The key has used up its requests.", "Wait as long as Retry-After says."},
	{codeMethod, http.StatusMethodNotAllowed, "The route does not have this method.", "Use one of the methods in the header Allow."},
	{codeNoLinks, http.StatusNotImplemented, "The bucket of this server makes no links.", "Send files through the server: PUT /v1/uploads, GET /v1/tasks/{id}/result. Links need S3 or R2."},
	{codeNotAcceptable, http.StatusNotAcceptable, "The answer cannot have a type that the request accepts.", "Send Accept: application/json."},
	{codeNotEnded, http.StatusConflict, "The task has not ended yet, so it has no result.", "Wait: GET the task with ?wait=30."},
	{codeNotFailed, http.StatusConflict, "Only a failed task can be retried.", "Copy the task to run it again: POST /v1/tasks/{id}/copy."},
	{codeNotKept, http.StatusConflict, "The request that made the task is no longer kept.", "Submit the task again. The input of a completed task is not kept."},
	{codeParameter, http.StatusBadRequest, "A parameter is not valid.", "Correct the parameters that errors names."},
	{codePrecondition, http.StatusPreconditionFailed, "The task has changed since the ETag in If-Match.", "Read the task again."},
	{codeRange, http.StatusRequestedRangeNotSatisfiable, "The range is outside of the result, or has more than one part.", "Ask for one range within the length."},
	{codeRouteNotFound, http.StatusNotFound, "There is no such route.", "See /docs or /openapi.json."},
	{codeScheduleExists, http.StatusConflict, "The tenant has a schedule of this name.", "Delete it first, or take another name."},
	{codeScheduleNotFound, http.StatusNotFound, "There is no such schedule.", "List the schedules: GET /v1/schedules."},
	{codeScope, http.StatusForbidden, "The key does not have the scope that the route needs.", "Use a key with the scope: neuronmill key create --scope SCOPE."},
	{codeStopping, http.StatusServiceUnavailable, "The server is stopping.", "Send the request again; another server takes it."},
	{codeTimedOut, http.StatusServiceUnavailable, "The server could not answer in time.", "Send the request again; with an Idempotency-Key a task is not made twice."},
	{codeTokenExpired, http.StatusConflict, "The token was not used within ten minutes, and the tasks may have changed.", "Ask for a new plan: POST /v1/actions with the action and the filter."},
	{codeTokenInvalid, http.StatusBadRequest, "The token was not made by this server for this tenant.", "Send the token of a plan as it is: POST /v1/actions with an action and a filter returns one."},
	{codeTooManyActions, http.StatusServiceUnavailable, "This server runs as many actions as it may.", "Send the token again after Retry-After."},
	{codeTooManyAttempts, http.StatusTooManyRequests, "Too many requests with a wrong key came from this address.", "Wait as long as Retry-After says, and correct the key."},
	{codeTooManySchedules, http.StatusConflict, "The tenant has as many schedules as one may have.", "Delete one first."},
	{codeUnauthorized, http.StatusUnauthorized, "The key is missing, wrong, revoked or expired.", "Send Authorization: Bearer KEY; neuronmill key create makes one."},
	{codeUnavailable, http.StatusServiceUnavailable, "Redis or the bucket cannot be reached.", "Send the request again later. See GET /readyz for what is missing."},
	{codeUnknownField, http.StatusBadRequest, "A field does not exist.", "Correct or remove the field that errors names."},
	{codeWouldWait, http.StatusServiceUnavailable, "The task would wait longer than max_wait.", "Send it again after Retry-After, or with a longer max_wait."},
}

// statusOfCall has the status of the codes of package tasks that a call returns. A code
// that is missing means 400.
var statusOfCall = map[string]int{
	tasks.CodeIdempotencyMismatch: http.StatusConflict,
	tasks.CodeInternalError:       http.StatusInternalServerError,
	tasks.CodeResultInStore:       http.StatusConflict,
	tasks.CodeTaskEnded:           http.StatusConflict,
	tasks.CodeTaskNotFound:        http.StatusNotFound,
	tasks.CodeTaskOverdue:         http.StatusServiceUnavailable,
	tasks.CodeUnknownOutcome:      http.StatusServiceUnavailable,
	tasks.CodeInputTooLarge:       http.StatusRequestEntityTooLarge,
	tasks.CodeUnsupportedMedia:    http.StatusUnsupportedMediaType,
}

// Codes explains all codes that a Problem may have.
var Codes = allCodes()

func allCodes() map[string]CodeInfo {
	all := map[string]CodeInfo{}
	for _, c := range tasks.Codes {
		status, ok := statusOfCall[c.Code]
		if !ok {
			status = http.StatusBadRequest
		}
		all[c.Code] = CodeInfo{c.Code, status, c.Meaning, c.Advice}
	}
	for _, c := range ownCodes {
		all[c.Code] = c
	}
	return all
}

// codeInfo returns the row of a code. An unknown code is a fault of this program.
func codeInfo(code string) CodeInfo {
	if info, ok := Codes[code]; ok {
		return info
	}
	return Codes[tasks.CodeInternalError]
}
