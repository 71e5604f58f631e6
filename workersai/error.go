package workersai

import (
	"cmp"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is a refusal of the API, an unusable answer, or a call without an answer.
type Error struct {
	Status     int           // HTTP status; 0 without an answer
	Code       int           // the API's own code; 0 when absent
	Message    string        // as sent, cleaned and without the client's token; our own words if the body has no message
	RetryAfter time.Duration // 0 when not stated
	RequestID  string        // cf-ai-req-id
	Ray        string        // cf-ray
	cause      error         // of a transport failure
	lost       bool          // the model may have run although no complete answer arrived
	unusable   bool          // the answer is complete but has no usable content
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("workers ai")
	if e.Status != 0 {
		fmt.Fprintf(&b, " %d", e.Status)
	}
	if e.Code != 0 {
		fmt.Fprintf(&b, "/%d", e.Code)
	}
	fmt.Fprintf(&b, ": %s", e.Message)
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request %s)", clean(e.RequestID, 64))
	}
	return b.String()
}

// Unwrap returns the cause of a transport failure, for example a cancelled context.
func (e *Error) Unwrap() error { return e.cause }

// Lost reports whether the model may have run, and been billed, without a usable answer.
// Either the connection broke, the answer is damaged or unusable, an error ended a stream
// after its first tokens, or an intermediary answered instead of the API. If the price
// arrived nevertheless, the Meta beside the error is Priced.
func (e *Error) Lost() bool {
	switch e.Status {
	case 408, 502, 504, 520, 521, 522, 523, 524, 525, 526:
		return e.Code == 0 || e.lost || e.unusable
	}
	return e.lost || e.unusable
}

// unsendable returns the error of a request that cannot be encoded. A retry would not
// help.
func unsendable(cause error) *Error {
	return &Error{Code: 5006, Message: "the request cannot be encoded: " + clean(cause.Error(), 200), cause: cause}
}

// transportError returns the error of a call without a complete answer. It omits the text
// of the cause, which may contain the URL.
func (r reply) transportError(cause error) *Error {
	e := &Error{Message: "the connection failed before the whole answer was there", cause: cause, lost: true}
	if timeout, ok := cause.(interface{ Timeout() bool }); ok && timeout.Timeout() {
		e.Message = "no whole answer in time"
	}
	return r.identify(e)
}

// damaged returns the error of a 2xx answer that an intermediary cut or replaced.
func (r reply) damaged(why string) *Error {
	return r.identify(&Error{Status: r.StatusCode, Message: why, lost: true})
}

// unusable returns the error of a complete 2xx answer without usable content. It was
// billed.
func (r reply) unusable(why string) *Error {
	return r.identify(&Error{Status: r.StatusCode, Message: why, unusable: true})
}

// refusal returns the error that a body states.
func (r reply) refusal(body []byte) *Error {
	e := &Error{Status: r.StatusCode, RetryAfter: retryAfter(r.Header, time.Now())}
	if target, ok := r.redirect(); ok {
		e.Message = "answered with a redirect" + target + ", which is not followed: check CLOUDFLARE_BASE_URL and any proxy"
		return r.identify(e)
	}
	s := statementIn(body)
	e.Code, e.Message = s.code, r.clean(s.message, 300)
	if s.status != 0 && r.StatusCode/100 == 2 {
		e.Status = s.status
	}
	if e.Message == "" && s.isJSON {
		e.Message = noReason
	}
	if e.Message == "" && strings.HasPrefix(strings.TrimSpace(string(body)), "<") {
		e.Message = "answered with a page, not JSON"
	}
	if e.Message == "" {
		e.Message = cmp.Or(r.clean(string(body), 200), "answered without a body")
	}
	return r.identify(e)
}

// noReason is the message of an empty refusal.
const noReason = "gave no reason"

// redirect reports whether the answer is a redirect, and names its target.
func (r reply) redirect() (target string, ok bool) {
	if r.StatusCode/100 != 3 {
		return "", false
	}
	if to, err := r.Location(); err == nil && to.Host != "" {
		return " to " + r.clean(to.Scheme+"://"+to.Host, 100), true
	}
	return "", true
}

func (r reply) identify(e *Error) *Error {
	m := r.meta()
	e.RequestID, e.Ray = m.RequestID, m.Ray
	return e
}

// clean returns a text of the answer as one valid line of at most most bytes, without the
// client's token.
func (r reply) clean(text string, most int) string {
	const shortest = 8 // an emulator's token may be an ordinary word
	if len(r.token) >= shortest {
		text = strings.ReplaceAll(text, r.token, "***")
	}
	return clean(text, most)
}

// retryAfterCap limits the Retry-After that is respected. The longest documented block
// lasts five minutes.
const retryAfterCap = 15 * time.Minute

// retryAfter reads the header in either form: seconds or a date. An invalid value is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		if !(seconds > 0) {
			return 0
		}
		return time.Duration(min(seconds, retryAfterCap.Seconds()) * float64(time.Second))
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), retryAfterCap)
}

// clean returns a text as one valid line of at most most bytes.
func clean(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= most {
		return text
	}
	for most > 0 && text[most]&0xC0 == 0x80 {
		most--
	}
	return text[:most]
}
