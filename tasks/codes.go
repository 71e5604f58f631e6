package tasks

import "errors"

// The codes of failed tasks, in results and dead letters. They are stable, so that
// programs can compare them. Codes lists them with their meaning.
const (
	CodeAccountRefused    = "account_refused"
	CodeAnswerUnusable    = "answer_unusable"
	CodeArchived          = "archived"
	CodeAttemptsExhausted = "attempts_exhausted"
	CodeAudioUnreachable  = "audio_unreachable"
	CodeBudgetExceeded    = "budget_exceeded"
	CodeCancelled         = "cancelled"
	CodeContentFlagged    = "content_flagged"
	CodeContextExceeded   = "context_exceeded"
	CodeDeadlineExceeded  = "deadline_exceeded"
	CodeEntryDamaged      = "entry_damaged"
	CodeFetchFailed       = "fetch_failed"
	CodeInferenceTimeout  = "inference_timeout"
	CodeInputDamaged      = "input_damaged"
	CodeInputNotFound     = "input_not_found"
	CodeInputTooLarge     = "input_too_large"
	CodeInputUnreadable   = "input_unreadable"
	CodeInternalError     = "internal_error"
	CodeJSONNotMet        = "json_not_met"
	CodeMaxTokensTooSmall = "max_tokens_too_small" //nolint:gosec // no credential
	CodeModelGone         = "model_gone"
	CodeModelNotFound     = "model_not_found"
	CodeNoCapacity        = "no_capacity"
	CodePayloadInvalid    = "payload_invalid"
	CodePoisoned          = "poisoned"
	CodeQuotaExhausted    = "quota_exhausted"
	CodeRateLimited       = "rate_limited"
	CodeRequestBlocked    = "request_blocked"
	CodeRequestRefused    = "request_refused"
	CodeResultNotStored   = "result_not_stored"
	CodeSameLanguage      = "same_language"
	CodeUnsupportedMedia  = "unsupported_media"
	CodeURLNotAllowed     = "url_not_allowed"
)

// The codes of errors that calls return; see CodeOf.
const (
	CodeIdempotencyMismatch = "idempotency_mismatch"
	CodeResultInStore       = "result_in_store"
	CodeTaskEnded           = "task_ended"
	CodeTaskNotFound        = "task_not_found"
	CodeTaskOverdue         = "task_overdue"
	CodeUnknownOutcome      = "unknown_outcome"
)

// CodeInfo explains one code.
type CodeInfo struct {
	Code    string
	Meaning string
	Advice  string // what to do
	OfCall  bool   // the code of an error that a call returns, not of a failed task
}

// Codes explains all codes in alphabetical order. It is the source of docs/errors.md.
var Codes = []CodeInfo{
	{CodeAccountRefused, "Cloudflare refused the account or its token.", "Check CLOUDFLARE_ACCOUNT_ID, the token and its permission \"Workers AI\"; then retry.", false},
	{CodeAnswerUnusable, "The API answered, twice in a form that is of no use: no text, another number of vectors, values that are none.", "Retry with another model, or a smaller input. The calls may have been billed.", false},
	{CodeArchived, "The task was moved to the archive of the queue by hand.", "Retry it if that was a mistake.", false},
	{CodeAttemptsExhausted, "Every attempt failed for a reason that might have passed; the message has the last one.", "Retry later. If it happens to many tasks, look at the state of the API.", false},
	{CodeAudioUnreachable, "The server of the audio's URL did not answer, or not in time.", "Check the URL from the network of the workers; then retry.", false},
	{CodeBudgetExceeded, "The next call might exceed max_neurons of the task, or a cap of the day, so it was not sent.", "Raise the bound that the message names (neuronmill budget list shows the caps), or make the task cheaper: a shorter input, a lower max_tokens, another model; then enqueue it again.", false},
	{CodeCancelled, "A person or program cancelled the task.", "Enqueue it again if it is wanted after all.", false},
	{CodeContentFlagged, "The API's safety filter refused the input or the answer.", "Change the input.", false},
	{CodeContextExceeded, "The input and max_tokens together are longer than what the model reads at once.", "Shorten the input, lower max_tokens, or take a model with a larger context.", false},
	{CodeDeadlineExceeded, "The deadline passed before there was a result; the message says what the task waited for.", "Retry with a later deadline, and remove what it waited for.", false},
	{CodeEntryDamaged, "An entry in the list of dead letters cannot be read. The task's result can.", "Look at the result of the task; drop the entry.", false},
	{CodeFetchFailed, "The server of the audio's URL refused it, or sent something else than was announced.", "Check the URL: it must answer with status 200 and the audio, without a login.", false},
	{CodeIdempotencyMismatch, "The idempotency key belongs to a task with another payload or model.", "Use another key for other work. The first task is not affected.", true},
	{CodeInferenceTimeout, "The model took longer than the API allows.", "Make the input or max_tokens smaller, or split the work.", false},
	{CodeInputDamaged, "The stored input is not the one that the task was accepted with.", "Find out what writes to the bucket; enqueue the task again.", false},
	{CodeInputNotFound, "The input, or the audio at the key, is not in the bucket.", "Upload it, and do not delete it before the task has ended; then enqueue the task again.", false},
	{CodeInputTooLarge, "The input has more bytes than the API or a worker takes.", "Split or compress it.", false},
	{CodeInputUnreadable, "The API could not decode the audio or the image.", "Convert it to a common format, for example mp3 or wav.", false},
	{CodeInternalError, "The worker failed on this task for a reason of its own.", "Look for the task's id in the worker's log, and report it.", false},
	{CodeJSONNotMet, "The model could not answer in the JSON that response_format asks for.", "Simplify the schema, say in the prompt what is wanted, or take another model.", false},
	{CodeMaxTokensTooSmall, "max_tokens leaves the model no room for an answer.", "Raise max_tokens.", false},
	{CodeModelGone, "The model has been withdrawn.", "Take another one: neuronmill models lists them.", false},
	{CodeModelNotFound, "The API does not know the model, or the account may not use it.", "Check the model's id: neuronmill models lists them.", false},
	{CodeNoCapacity, "The model had no capacity, for as often as the task asked.", "Retry later, or take another model.", false},
	{CodePayloadInvalid, "The payload, an option, or the stored task is not valid; the message names the fields.", "Correct the fields and enqueue the task again.", false},
	{CodePoisoned, "Three workers died while they ran this task.", "Look at the logs of the workers around that time before you retry it.", false},
	{CodeQuotaExhausted, "The account's daily allocation is used up.", "Wait until 00:00 UTC, or upgrade the plan.", false},
	{CodeRateLimited, "The API refused the calls as too many.", "Retry later. Lower the model's limit if other programs use the account too.", false},
	{CodeRequestBlocked, "A firewall before the API refused this request, not the account.", "Look in the input for what a firewall takes for an attack, such as HTML or SQL.", false},
	{CodeRequestRefused, "The API refused the request as not valid; the message has its reason.", "Correct the payload and enqueue the task again.", false},
	{CodeResultInStore, "The task has ended, but its result is in the bucket only and the client has no Store.", "Give the client a Store, or read the result with a program that has one.", true},
	{CodeResultNotStored, "The bucket refused the result twice, although it takes other objects.", "Check the limits and permissions of the bucket; then retry.", false},
	{CodeSameLanguage, "The text is in the language that it should be translated into.", "Set source_lang, or take the text as it is.", false},
	{CodeTaskEnded, "The task has a result already, so it cannot be cancelled.", "Nothing: look at its result.", true},
	{CodeTaskNotFound, "Neither Redis nor the bucket knows the task.", "Check the id, the Redis and the bucket. A task that was accepted by Redis alone goes with it.", true},
	{CodeTaskOverdue, "No worker has ended the task although its deadline passed.", "Start a worker for its kind.", true},
	{CodeUnknownOutcome, "A reply was lost: the task may run or not.", "Repeat the call with the same idempotency key.", true},
	{CodeUnsupportedMedia, "The audio is empty or not in a known format.", "Convert it to wav, mp3, flac, ogg, m4a or webm.", false},
	{CodeURLNotAllowed, "The URL leads to an address that workers do not connect to.", "Use https at port 443 of a public host.", false},
}

// CodeOf returns the code of an error of this package. Programs can compare it and HTTP
// interfaces can send it. It returns "" for other errors.
func CodeOf(err error) string {
	var failure *TaskError
	var problems ValidationError
	switch {
	case errors.Is(err, ErrUnknownOutcome): // checked first, because it wraps its cause
		return CodeUnknownOutcome
	case errors.Is(err, ErrIdempotencyMismatch):
		return CodeIdempotencyMismatch
	case errors.As(err, new(*ResultInStoreError)):
		return CodeResultInStore
	case errors.Is(err, ErrEnded):
		return CodeTaskEnded
	case errors.Is(err, ErrNotFound):
		return CodeTaskNotFound
	case errors.Is(err, ErrOverdue):
		return CodeTaskOverdue
	case errors.As(err, &problems):
		return problems.Code()
	case errors.As(err, &failure):
		return failure.Code
	}
	return ""
}
