package workersai

import "strings"

// Class is what an Error asks for.
type Class int

// The classes.
const (
	Permanent Class = iota // the same request will be refused again
	Transient              // try again, later and later
	Guarded                // try again once or twice; an identical request often meets it again
	Busy                   // the model has no capacity just now
	Throttled              // too many requests: wait, it is nobody's failure
	Quota                  // the free daily allocation is spent until 00:00 UTC
	Auth                   // account, token, plan or licence: a person is needed
)

func (c Class) String() string {
	return [...]string{"permanent", "transient", "guarded", "busy", "throttled", "quota", "auth"}[c]
}

// codes classifies the API's codes. The first block is the documented table
// (developers.cloudflare.com/workers-ai/platform/errors), the second what public
// projects met beyond it, the third the codes that older documents name.
var codes = map[int]Class{
	3003: Permanent, 3006: Permanent, 3039: Permanent, 3042: Permanent, 5004: Permanent,
	5005: Permanent, 5007: Permanent, 5019: Permanent,
	3007: Transient, 3008: Transient, 3036: Quota, 3040: Busy,
	3023: Auth, 3041: Auth, 5016: Auth, 5018: Auth, 5035: Auth,

	3010: Permanent, 5006: Permanent, 5012: Permanent, 5021: Permanent, 5028: Permanent,
	8001: Permanent, 8006: Permanent, 8007: Permanent, 9015: Permanent, 10063: Permanent,
	3043: Transient, 8004: Transient, 8005: Transient, 3046: Guarded, 8008: Guarded,
	3021: Throttled, 971: Throttled, 10429: Throttled, 4006: Quota,
	2001: Auth, 7000: Auth, 9106: Auth, 10000: Auth,

	7502: Permanent, 7504: Permanent, 7505: Throttled, 7506: Permanent,
}

// texts decides where the code means several things, or is not known. Order matters.
var texts = []struct {
	part  string
	class Class
}{
	{"daily free allocation", Quota},
	{"per min rate reached", Throttled},
	{"rate limit exceeded", Throttled}, // unified billing's own, unpublished limit
	{"throttling your request speed", Throttled},
	{"error code: 1015", Throttled},
	{"capacity temporarily exceeded", Busy},
	{"no more data centers", Busy},
	{"context window limit", Permanent},
	{"sequence too long", Permanent},
	{"max context reached", Permanent},
	{"output has been flagged", Permanent},
	{"was deprecated", Permanent},
	{"model not found", Permanent},
	{"user input error", Permanent},
	{"could not route", Auth},
	{"not available via unified billing", Auth},
	{"json mode couldn't be met", Guarded},
	{"internal server error", Guarded},
}

// Class says what to do: by code, then by text, then by status.
func (e *Error) Class() Class {
	if e.broken {
		return Transient
	}
	if c, ok := codes[e.Code]; ok {
		return c
	}
	message := strings.ToLower(e.Message)
	for _, t := range texts {
		if strings.Contains(message, t.part) && (t.class != Guarded || e.Status < 500) {
			return t.class
		}
	}
	switch {
	case e.Status == 401 || e.Status == 402 || e.Status == 403:
		return Auth
	case e.Status == 429:
		return Throttled
	case e.Status == 0 || e.Status == 408 || e.Status >= 500:
		return Transient
	}
	return Permanent
}
