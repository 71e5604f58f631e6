package openai

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/tasks"
)

// Error is an error in OpenAI's form. It never holds a value of the request.
type Error struct {
	Status  int    // of HTTP
	Type    string // invalid_request_error, rate_limit_error, server_error, ...
	Code    string // OpenAI's code where it has one, else that of package tasks; may be empty
	Param   string // the field at fault; may be empty
	Message string

	RetryAfter time.Duration `json:"-"` // how long the client should wait; 0 when unknown
	Final      bool          // a repetition would fail too, or would be paid again
}

func (e *Error) Error() string {
	if e.Param == "" {
		return e.Message
	}
	return e.Param + ": " + e.Message
}

// Body returns the error's JSON document.
func (e *Error) Body() []byte {
	optional := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	body, err := json.Marshal(map[string]any{"error": map[string]any{
		"message": e.Error(), "type": e.Type, "param": optional(e.Param), "code": optional(e.Code),
	}}, json.Deterministic(true))
	if err != nil { // only text is encoded, and invalid UTF-8 is the one thing that fails
		return []byte(`{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}`)
	}
	return body
}

// The types of errors.
const (
	typeInvalid = "invalid_request_error"
	typeAuth    = "authentication_error"
	typeAllowed = "permission_error"
	typeRate    = "rate_limit_error"
	typeQuota   = "insufficient_quota"
	typeServer  = "server_error"
)

func invalid(param, format string, args ...any) *Error {
	return &Error{Status: 400, Type: typeInvalid, Param: param, Message: fmt.Sprintf(format, args...)}
}

func noModel(format string, args ...any) *Error {
	return &Error{Status: 404, Type: typeInvalid, Code: "model_not_found", Param: "model", Message: fmt.Sprintf(format, args...)}
}

// Unauthorized is the answer to a request without a valid key.
func Unauthorized() *Error {
	return &Error{
		Status: 401, Type: typeAuth, Code: "invalid_api_key",
		Message: "the API key is missing or not valid; send it as Authorization: Bearer KEY",
	}
}

// Forbidden is the answer to a key without a scope.
func Forbidden(scope string) *Error {
	return &Error{Status: 403, Type: typeAllowed, Code: "insufficient_scope", Message: "the API key lacks the scope " + scope}
}

// NotFound is the answer to an unknown route.
func NotFound() *Error {
	return &Error{Status: 404, Type: typeInvalid, Code: "unknown_url", Message: "there is no such route"}
}

// TooLarge is the answer to a body above a limit in bytes.
func TooLarge(limit int64) *Error {
	return &Error{
		Status: 413, Type: typeInvalid, Code: tasks.CodeInputTooLarge,
		Message: fmt.Sprintf("the body has more than %d bytes", limit),
	}
}

// Invalid is the answer to a request with an invalid field or header.
func Invalid(param, message string) *Error { return invalid(param, "%s", message) }

// Later is the answer to a request that would wait longer than it may. reason says what
// for. wait is the expected time; 0 when unknown.
func Later(reason string, wait time.Duration) *Error {
	return &Error{
		Status: 429, Type: typeRate, Code: "rate_limit_exceeded", Message: "would wait too long: " + reason, RetryAfter: wait,
	}
}

// Unavailable is the answer while a part of neuronmill is missing.
func Unavailable(message string) *Error {
	return &Error{Status: 503, Type: typeServer, Code: "unavailable", Message: message}
}

// Internal is the answer to an error that is not the client's.
func Internal() *Error {
	return &Error{Status: 500, Type: typeServer, Code: tasks.CodeInternalError, Message: "an internal error; the server's log has it"}
}

// failure is the form of a failed task's code.
type failure struct {
	status    int
	kind      string
	code      string // empty means the task's own
	repeating bool   // the SDK may repeat the request
}

// failures has a row for each code of a failed task. The worker has already tried as often
// as makes sense, so few failures are worth a repetition by the SDK.
var failures = map[string]failure{
	tasks.CodeAccountRefused:    {503, typeServer, "", false},
	tasks.CodeAnswerUnusable:    {502, typeServer, "", false},
	tasks.CodeArchived:          {409, typeInvalid, "", false},
	tasks.CodeAttemptsExhausted: {503, typeServer, "", false},
	tasks.CodeAudioUnreachable:  {400, typeInvalid, "", false},
	tasks.CodeBudgetExceeded:    {429, typeQuota, "insufficient_quota", false},
	tasks.CodeCancelled:         {409, typeInvalid, "", false},
	tasks.CodeContentFlagged:    {400, typeInvalid, "content_filter", false},
	tasks.CodeContextExceeded:   {400, typeInvalid, "context_length_exceeded", false},
	tasks.CodeDeadlineExceeded:  {429, typeRate, "rate_limit_exceeded", true},
	tasks.CodeEntryDamaged:      {500, typeServer, "", false},
	tasks.CodeFetchFailed:       {400, typeInvalid, "", false},
	tasks.CodeInferenceTimeout:  {504, typeServer, "", false},
	tasks.CodeInputDamaged:      {500, typeServer, "", false},
	tasks.CodeInputNotFound:     {400, typeInvalid, "", false},
	tasks.CodeInputTooLarge:     {413, typeInvalid, "", false},
	tasks.CodeInputUnreadable:   {400, typeInvalid, "", false},
	tasks.CodeInternalError:     {500, typeServer, "", false},
	tasks.CodeJSONNotMet:        {422, typeInvalid, "", false},
	tasks.CodeMaxTokensTooSmall: {400, typeInvalid, "", false},
	tasks.CodeModelGone:         {404, typeInvalid, "model_not_found", false},
	tasks.CodeModelNotFound:     {404, typeInvalid, "model_not_found", false},
	tasks.CodeNoCapacity:        {429, typeRate, "rate_limit_exceeded", true},
	tasks.CodePayloadInvalid:    {400, typeInvalid, "", false},
	tasks.CodePoisoned:          {500, typeServer, "", false},
	tasks.CodeQuotaExhausted:    {429, typeQuota, "insufficient_quota", false},
	tasks.CodeRateLimited:       {429, typeRate, "rate_limit_exceeded", true},
	tasks.CodeRequestBlocked:    {400, typeInvalid, "", false},
	tasks.CodeRequestRefused:    {400, typeInvalid, "", false},
	tasks.CodeResultNotStored:   {500, typeServer, "", false},
	tasks.CodeSameLanguage:      {400, typeInvalid, "", false},
	tasks.CodeUnsupportedMedia:  {400, typeInvalid, "", false},
	tasks.CodeURLNotAllowed:     {400, typeInvalid, "", false},
}

// params are the fields that a failure of a task points at.
var params = map[string]string{
	tasks.CodeContextExceeded: "messages", tasks.CodeMaxTokensTooSmall: "max_tokens", tasks.CodeJSONNotMet: "response_format",
	tasks.CodeModelGone: "model", tasks.CodeModelNotFound: "model",
}

// Failure returns the error of a failed task.
func (r *Request) Failure(e *tasks.TaskError) *Error {
	row, ok := failures[e.Code]
	if !ok {
		row = failures[tasks.CodeInternalError]
	}
	out := &Error{Status: row.status, Type: row.kind, Code: row.code, Message: e.Message, Final: !row.repeating && row.status >= 409}
	if out.Code == "" {
		out.Code = e.Code
	}
	out.Param = params[e.Code]
	switch {
	case (r.Endpoint == Embeddings || r.Endpoint == Responses) && out.Param == "messages":
		out.Param = "input"
	case r.Kind() != tasks.KindText && out.Param != "model":
		out.Param = ""
	}
	return out
}

// Refusal returns the answer to an error of Enqueue, Wait and their kind.
func (r *Request) Refusal(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*tasks.TaskError](err); ok {
		return r.Failure(e)
	}
	problems, ok := errors.AsType[tasks.ValidationError](err)
	if !ok || len(problems) == 0 {
		return Internal()
	}
	e := invalid(r.paramOf(problems[0].Field), "%s", withoutValues(problems[0].Message))
	e.Code = problems[0].Code
	return e
}

// paramOf returns the client's name of a payload's field.
func (r *Request) paramOf(field string) string {
	rest, isText := strings.CutPrefix(field, "texts")
	switch {
	case isText && r.single:
		return "input"
	case isText:
		return "input" + rest
	case r.Endpoint == Images && (field == "width" || field == "height"):
		return "size"
	case field == "audio.url":
		return "url"
	case strings.HasPrefix(field, "audio"):
		return "file"
	case r.Endpoint == Responses && strings.HasPrefix(field, "messages"):
		return "input" // instructions and calls beside each other move the numbers
	case r.Endpoint == Responses && field == "max_tokens":
		return "max_output_tokens"
	case r.Endpoint == Responses && strings.HasPrefix(field, "reasoning_effort"):
		return "reasoning.effort"
	case field == "initial_prompt":
		return "prompt"
	case field == "payload":
		return ""
	}
	return field
}

var (
	quoted      = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	firstNumber = regexp.MustCompile(`^[-+0-9.eE]+ (is|has)\b`)
)

// withoutValues removes the values of the request from a message of package tasks.
func withoutValues(message string) string {
	message = quoted.ReplaceAllString(message, "the value")
	return firstNumber.ReplaceAllString(message, "$1")
}
