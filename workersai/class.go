package workersai

import "strings"

// Class groups errors by the right reaction.
type Class int

// The classes.
const (
	Permanent Class = iota // the same request will be refused again
	Transient              // retry with growing pauses
	Guarded                // retry once or twice; an identical request often fails the same way
	Busy                   // the model currently has no capacity
	Throttled              // too many requests: wait; this is not a failure of the task
	Quota                  // the free daily allocation is spent until 00:00 UTC
	Auth                   // account, token, plan, licence or address: a person has to fix it
	Unusable               // the API answered and billed, but the answer has no usable content: try at most twice
)

func (c Class) String() string {
	return [...]string{"permanent", "transient", "guarded", "busy", "throttled", "quota", "auth", "unusable"}[c]
}

// Reason is the stable code of an Error, used as the failure code of a task. It is empty
// if only the class is known.
type Reason string

// The reasons.
const (
	ModelNotFound    Reason = "model_not_found"
	ModelGone        Reason = "model_gone"
	ContextExceeded  Reason = "context_exceeded"     // input and max_tokens exceed the context window
	InputTooLarge    Reason = "input_too_large"      // the request has too many bytes
	InputUnreadable  Reason = "input_unreadable"     // audio or base64 that cannot be decoded
	InferenceTimeout Reason = "inference_timeout"    // the API's own time limit
	MaxTokensSmall   Reason = "max_tokens_too_small" //nolint:gosec // no credential
	ContentFlagged   Reason = "content_flagged"
	JSONNotMet       Reason = "json_not_met"
	RequestBlocked   Reason = "request_blocked" // a firewall blocked this request
	RequestRefused   Reason = "request_refused"
	AnswerUnusable   Reason = "answer_unusable"
	NoCapacity       Reason = "no_capacity"
	RateLimited      Reason = "rate_limited"
	QuotaExhausted   Reason = "quota_exhausted"
	AccountRefused   Reason = "account_refused"
)

// classReasons has the reasons of classes whose errors have no reason of their own.
var classReasons = map[Class]Reason{
	Permanent: RequestRefused, Busy: NoCapacity, Throttled: RateLimited, Quota: QuotaExhausted,
	Auth: AccountRefused, Unusable: AnswerUnusable,
}

// meaning is the class and the reason of a code or a text.
type meaning struct {
	class  Class
	reason Reason // empty means that of the class
}

// codes maps the API's codes to their meaning. The first block is the documented table
// (developers.cloudflare.com/workers-ai/platform/errors). The second has codes that
// public projects observed, the third those of older documents.
var codes = map[int]meaning{
	3003: {}, 3006: {reason: InputTooLarge}, 3039: {}, 3042: {reason: ModelNotFound}, 5004: {reason: InputUnreadable},
	5005: {}, 5007: {reason: ModelNotFound}, 5019: {},
	3007: {class: Transient}, 3008: {class: Transient}, 3036: {class: Quota}, 3040: {class: Busy},
	3023: {class: Auth}, 3041: {class: Auth}, 5016: {class: Auth}, 5018: {class: Auth}, 5035: {class: Auth},

	3010: {reason: ContextExceeded}, 5006: {}, 5012: {}, 5021: {reason: ContextExceeded}, 5028: {reason: ModelGone},
	8001: {reason: InputUnreadable}, 8006: {reason: MaxTokensSmall}, 8007: {}, 9015: {}, 10063: {},
	3043: {class: Transient}, 8004: {class: Transient}, 8005: {class: Transient}, 8008: {class: Guarded},
	3046: {class: Guarded, reason: InferenceTimeout},
	3021: {class: Throttled}, 971: {class: Throttled}, 10429: {class: Throttled}, 4006: {class: Quota},
	2001: {class: Auth}, 7000: {class: Auth}, 9106: {class: Auth}, 10000: {class: Auth},

	7502: {reason: ModelNotFound}, 7504: {}, 7505: {class: Throttled}, 7506: {reason: ContextExceeded},
}

// KnownCode reports whether the API is known to answer with a code. There are few, so the
// codes may label metrics.
func KnownCode(code int) bool {
	_, ok := codes[code]
	return ok
}

// texts maps parts of messages, in lower case, to their meaning. It is used if the code
// is unknown or ambiguous. The first match wins.
var texts = []struct {
	part string
	meaning
}{
	{"daily free allocation", meaning{class: Quota}},
	{"per min rate reached", meaning{class: Throttled}},
	{"wholesale rate limit", meaning{class: Throttled}}, // the separate, unpublished limit of unified billing
	{"rate limit exceeded", meaning{class: Throttled}},
	{"throttling your request speed", meaning{class: Throttled}},
	{"error code: 1015", meaning{class: Throttled}},
	{"capacity temporarily exceeded", meaning{class: Busy}},
	{"no more data centers", meaning{class: Busy}},
	{"context window limit", meaning{reason: ContextExceeded}},
	{"maximum context length", meaning{reason: ContextExceeded}},
	{"sequence too long", meaning{reason: ContextExceeded}},
	{"max context reached", meaning{reason: ContextExceeded}},
	{"has been flagged", meaning{reason: ContentFlagged}},
	{"nsfw", meaning{reason: ContentFlagged}},
	{"was deprecated", meaning{reason: ModelGone}},
	{"model not found", meaning{reason: ModelNotFound}},
	{"no such model", meaning{reason: ModelNotFound}},
	{"user input error", meaning{}},
	{"bad input", meaning{}},
	{"failed validation", meaning{}},
	{"could not route", meaning{class: Auth}},
	{"no route for that uri", meaning{class: Auth}},
	{"authentication error", meaning{class: Auth}},
	{"authentication failed", meaning{class: Auth}},
	{"please configure ai gateway", meaning{class: Auth}},
	{"not available via unified billing", meaning{class: Auth}},
	{"on the workers free plan", meaning{class: Auth}},
	{"requires a workers paid plan", meaning{class: Auth}},
	{"json mode couldn't be met", meaning{class: Guarded, reason: JSONNotMet}},
	{"internal server error", meaning{class: Guarded}},
}

// Class classifies the error by its code, then its text, then its HTTP status.
func (e *Error) Class() Class {
	m, known := e.meaning()
	switch {
	case e.unusable:
		return Unusable
	case known && m.class == Permanent && e.Status >= 500:
		return Guarded // the server failed too, so one retry is worthwhile
	case known:
		return m.class
	case e.lost:
		return Transient
	}
	return e.statusClass()
}

// statusClass classifies errors with an unknown code and text.
func (e *Error) statusClass() Class {
	switch e.Status {
	case 401, 402:
		return Auth
	case 403:
		if e.Code == 0 {
			return Guarded // a firewall answered: the problem is this request, not the account
		}
		return Auth
	case 429:
		return Throttled
	case 0, 408:
		return Transient
	}
	switch e.Status / 100 {
	case 3:
		return Auth // the address or a proxy is wrong
	case 4:
		return Permanent
	}
	return Transient // an unknown error, also with status 200
}

// Reason returns the error's reason.
func (e *Error) Reason() Reason {
	m, known := e.meaning()
	switch {
	case e.unusable:
		return AnswerUnusable
	case m.reason != "":
		return m.reason
	case known:
		return classReasons[m.class]
	case e.Code == 0 && e.Status == 403:
		return RequestBlocked
	case e.Code == 0 && e.Status == 413:
		return InputTooLarge
	}
	return classReasons[e.Class()]
}

// engineRefusal is the code of every refusal by the engine that serves the model. Its
// text has the reason.
const engineRefusal = 8007

// meaning looks up the code, then the text.
func (e *Error) meaning() (m meaning, known bool) {
	m, known = codes[e.Code]
	if known && e.Code != engineRefusal {
		return m, true
	}
	message := strings.ToLower(e.Message)
	for _, t := range texts {
		vague := t.meaning == meaning{class: Guarded} && e.Status >= 500 // the status says the same
		if strings.Contains(message, t.part) && !vague && (!known || t.class == m.class) {
			return t.meaning, true
		}
	}
	return m, known
}
