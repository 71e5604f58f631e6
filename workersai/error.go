package workersai

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is an answer from the API that says no, or a call that got none.
type Error struct {
	Status     int           // HTTP status; 0 when there was no answer
	Code       int           // the API's own code; 0 when absent
	Message    string        // as sent, cleaned; what is wrong with the body when it was not JSON
	RetryAfter time.Duration // 0 when the API gave no advice
	RequestID  string        // cf-ai-req-id
	Ray        string        // cf-ray
	cause      error         // of a transport failure
	broken     bool          // the answer itself is damaged or of the wrong kind
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

// Unwrap gives the cause of a transport failure, so that a cancelled context shows.
func (e *Error) Unwrap() error { return e.cause }

// Lost reports whether the model may have run, and been billed, although its answer did
// not come: the connection broke, the answer is damaged, or something on the way
// answered in the API's place.
func (e *Error) Lost() bool {
	switch e.Status {
	case 408, 502, 504, 520, 521, 522, 523, 524, 525, 526:
		return e.Code == 0 || e.broken
	}
	return e.broken
}

// apiError is one entry of the envelope's errors. The code has been seen as a string.
type apiError struct {
	Code    looseInt `json:"code"`
	Message string   `json:"message"`
}

type looseInt int

func (n *looseInt) UnmarshalJSON(b []byte) error {
	if i, err := strconv.Atoi(strings.Trim(string(b), `"`)); err == nil {
		*n = looseInt(i)
	}
	return nil
}

// refusal reads an answer that is not 2xx.
func refusal(resp *http.Response) *Error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil && len(body) == 0 {
		return transportError(err, resp)
	}
	return errorOf(resp, body)
}

// errorOf finds code and message in a body: the envelope's, the binding's, OpenAI's, or
// none at all.
func errorOf(resp *http.Response, body []byte) *Error {
	e := &Error{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	e.identify(resp)
	var form struct {
		Errors       []apiError      `json:"errors"`
		Error        json.RawMessage `json:"error"`
		InternalCode looseInt        `json:"internalCode"`
		Message      string          `json:"message"`
	}
	if json.Unmarshal(body, &form) != nil {
		e.Message = clean(string(body), 200)
		if strings.HasPrefix(strings.TrimSpace(e.Message), "<") {
			e.Message = "answered with a page, not JSON"
		}
		if e.Message == "" {
			e.Message = "answered without a body"
		}
		return e
	}
	first := apiError{Code: form.InternalCode, Message: form.Message}
	var text string
	switch {
	case len(form.Errors) > 0:
		first = form.Errors[0]
	case json.Unmarshal(form.Error, &text) == nil:
		first.Message = text
	case len(form.Error) > 0:
		_ = json.Unmarshal(form.Error, &first)
	}
	e.Code, e.Message = int(first.Code), clean(first.Message, 300)
	if e.Message == "" {
		e.Message = noReason
	}
	return e
}

// noReason stands for a refusal that is empty.
const noReason = "gave no reason"

func (e *Error) identify(resp *http.Response) {
	if resp != nil {
		e.RequestID, e.Ray = clean(resp.Header.Get("Cf-Ai-Req-Id"), 64), clean(resp.Header.Get("Cf-Ray"), 64)
	}
}

// transportError is a call without a whole answer. The cause's own text may hold the
// URL, so it is not repeated.
func transportError(cause error, resp *http.Response) *Error {
	e := &Error{Message: "the connection failed before the whole answer was there", cause: cause, broken: true}
	if timeout, ok := cause.(interface{ Timeout() bool }); ok && timeout.Timeout() {
		e.Message = "no whole answer in time"
	}
	e.identify(resp)
	return e
}

// badAnswer is a 2xx that cannot be used: damaged on the way, or of the wrong kind.
func badAnswer(resp *http.Response, why string) *Error {
	e := &Error{Status: resp.StatusCode, Message: why, broken: true}
	e.identify(resp)
	return e
}

// retryAfterCap is the longest advice that is followed; the worst documented block
// lasts five minutes.
const retryAfterCap = 15 * time.Minute

// retryAfter reads the header in either form: seconds or a date. Nonsense is 0.
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

// clean makes any text one valid line of at most most bytes.
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
