package workersai

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEveryKnownErrorHasItsClass(t *testing.T) {
	cases := []struct {
		status, code int
		message      string
		want         Class
	}{
		{400, 5007, "No such model", Permanent},
		{400, 5004, "", Permanent},
		{400, 3039, "", Permanent},
		{400, 3003, "", Permanent},
		{403, 5018, "", Auth},
		{403, 5016, "", Auth},
		{403, 3023, "", Auth},
		{403, 3041, "", Auth},
		{403, 5035, "requires a Workers Paid plan", Auth},
		{405, 5019, "", Permanent},
		{405, 5005, "", Permanent},
		{404, 3042, "", Permanent},
		{413, 3006, "", Permanent},
		{408, 3007, "", Transient},
		{408, 3008, "", Transient},
		{429, 3036, "", Quota},
		{429, 3040, "Capacity temporarily exceeded", Busy},
		{429, 4006, "you have used up your daily free allocation of 10,000 neurons", Quota},
		{429, 3021, "inference request per min rate reached", Throttled},
		{408, 3046, "Request timeout", Guarded},
		{500, 3043, "Internal server error", Transient},
		{200, 3043, "Internal server error", Transient},
		{500, 8004, "", Transient},
		{500, 8005, "", Transient},
		{500, 8008, "", Guarded},
		{400, 5006, "AiError: Bad input", Permanent},
		{422, 5012, "", Permanent},
		{413, 5021, "exceeded this model context window limit", Permanent},
		{413, 3010, "", Permanent},
		{400, 3030, "Sequence too long", Permanent},
		{400, 3030, "Max context reached", Permanent},
		{400, 3030, "output has been flagged", Permanent},
		{400, 3030, "Internal Server Error", Guarded},
		{410, 5028, "This model was deprecated on 2026-05-30", Permanent},
		{400, 8001, "Invalid input", Permanent},
		{400, 8006, "", Permanent},
		{400, 8007, "BadRequestError", Permanent},
		{400, 9015, "failed to parse prompt", Permanent},
		{400, 2001, "Please configure AI Gateway", Auth},
		{429, 2021, "Wholesale rate limit exceeded", Throttled},
		{200, 2021, "Wholesale rate limit exceeded", Throttled},
		{402, 2021, "not available via unified billing", Auth},
		{400, 7000, "No route for that URI", Auth},
		{404, 7003, "Could not route", Auth},
		{404, 7003, "Model not found", Permanent},
		{400, 7003, "User Input Error", Permanent},
		{200, 7003, "Wholesale rate limit exceeded", Throttled},
		{401, 10000, "Authentication error", Auth},
		{403, 10000, "Authentication error", Auth},
		{400, 9106, "Authentication failed", Auth},
		{429, 971, "consider throttling your request speed", Throttled},
		{429, 10429, "", Throttled},
		{400, 10063, "does not support request queuing", Permanent},
		{404, 7502, "", Permanent},
		{400, 7504, "", Permanent},
		{429, 7505, "", Throttled},
		{413, 7506, "", Permanent},
		// without a code
		{402, 0, "", Auth},
		{401, 0, "", Auth},
		{429, 0, "error code: 1015", Throttled},
		{429, 0, "", Throttled},
		{429, 0, "daily free allocation", Quota},
		{502, 0, "answered with a page, not JSON", Transient},
		{524, 0, "", Transient},
		{408, 0, "", Transient},
		{200, 0, "JSON Mode couldn't be met", Guarded},
		{413, 0, "", Permanent},
		{418, 99999, "unheard of", Permanent},
		{0, 0, "no answer", Transient},
	}
	seen := map[int]bool{}
	for _, c := range cases {
		e := &Error{Status: c.status, Code: c.code, Message: c.message}
		require.Equal(t, c.want, e.Class(), "%d/%d %q", c.status, c.code, c.message)
		seen[c.code] = true
	}
	for code := range codes {
		require.True(t, seen[code], "code %d has no row", code)
	}
}

func replyOf(status int, contentType, body string) reply {
	return reply{Response: &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {contentType}, "Cf-Ray": {"8f0-LIS"}},
		Body: io.NopCloser(strings.NewReader(body)),
	}}
}

func TestErrorsAreReadInEveryForm(t *testing.T) {
	cases := []struct {
		body    string
		code    int
		message string
	}{
		{`{"errors":[{"message":"AiError: no","code":5007}],"success":false,"result":{},"messages":[]}`, 5007, "AiError: no"},
		{`{"errors":[{"message":"as text","code":"3021"}]}`, 3021, "as text"},
		{`{"error":{"code":"5028","message":"gone"}}`, 5028, "gone"},
		{`{"error":"plainly"}`, 0, "plainly"},
		{`{"name":"AiError","internalCode":3040,"message":"busy"}`, 3040, "busy"},
		{`<!DOCTYPE html><h1>502</h1>`, 0, "answered with a page, not JSON"},
		{`error code: 1015`, 0, "error code: 1015"},
		{``, 0, "answered without a body"},
		{`{}`, 0, "gave no reason"},
		{"{\"errors\":[{\"message\":\"two\\nlines and a \xe2 broken byte\",\"code\":1}]}", 1, "two lines and a � broken byte"},
	}
	for _, c := range cases {
		e := replyOf(500, "application/json", c.body).readRefusal()
		require.Equal(t, c.code, e.Code, c.body)
		require.Equal(t, c.message, e.Message, c.body)
		require.Equal(t, "8f0-LIS", e.Ray)
	}
}

func TestAnUnknownRefusalUnderStatus200IsTriedAgain(t *testing.T) {
	for body, want := range map[string]Class{
		`{"success":false}`:              Transient,
		`{"success":false,"errors":[]}`:  Transient,
		`{"success":true,"errors":[{}]}`: Transient,
		`{"success":false,"errors":[{"code":5007,"message":"no such model"}]}`: Permanent,
		`{"success":false,"errors":[{"message":"unheard of"}]}`:                Transient,
	} {
		_, err := replyOf(200, "application/json", body).result()
		var api *Error
		require.ErrorAs(t, err, &api, body)
		require.Equal(t, want, api.Class(), body)
	}
}

func TestRetryAfterIsReadInBothFormsAndCapped(t *testing.T) {
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "0": 0, "-5": 0, "soon": 0, "1.5": 1500 * time.Millisecond, "NaN": 0, "1e300": retryAfterCap,
		"864000":                        retryAfterCap,
		"Thu, 01 Oct 2026 12:00:30 GMT": 30 * time.Second,
		"Thu, 01 Oct 2026 11:00:00 GMT": 0,
	} {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {value}}, now), "%q", value)
	}
}

func validText(s string) bool { return strings.ToValidUTF8(s, "") == s }
