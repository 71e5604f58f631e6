package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestEachErrorLeadsToItsVerdict(t *testing.T) {
	spec, _ := tasks.SpecOf(tasks.KindText)
	api := func(status, code int) error {
		return fmt.Errorf("ask: %w", &workersai.Error{Status: status, Code: code, Message: "no"})
	}
	first, last := counters{attempts: 1, calls: 1}, counters{attempts: spec.Attempts, calls: spec.Attempts}
	cases := []struct {
		name      string
		err       error
		used      counters
		fail      string
		uncounted bool
		parked    bool
	}{
		{"permanent", api(400, 5006), first, "request_refused", false, false},
		{"model unknown", api(400, 5007), first, "model_not_found", false, false},
		{"model gone", api(410, 5028), first, "model_gone", false, false},
		{"context", api(413, 5021), first, "context_exceeded", false, false},
		{"too large", api(413, 3006), first, "input_too_large", false, false},
		{"transient", api(502, 0), first, "", false, false},
		{"transient, spent", api(502, 0), last, "attempts_exhausted", false, false},
		{"inference time limit once", api(408, 3046), first, "", false, false},
		{"inference time limit twice", api(408, 3046), counters{attempts: 2}, "inference_timeout", false, false},
		{"permanent code under a server error once", api(502, 5006), first, "", false, false},
		{"permanent code under a server error twice", api(502, 5006), counters{attempts: 2}, "request_refused", false, false},
		{"unknown code inside a 200", api(200, 3050), first, "", false, false},
		{"unknown code inside a 200, spent", api(200, 3050), last, "attempts_exhausted", false, false},
		{"blocked by a firewall once", api(403, 0), first, "", false, false},
		{"blocked by a firewall twice", api(403, 0), counters{attempts: 2}, "request_blocked", false, false},
		{"max_tokens too small", api(200, 8006), first, "max_tokens_too_small", false, false},
		{"busy", api(429, 3040), last, "", true, true},
		{"busy beyond all patience", api(429, 3040), counters{attempts: busyBudget, unpaid: busyBudget}, "no_capacity", false, false},
		{"throttled", api(429, 3021), last, "", true, true},
		{"quota", api(429, 4006), last, "", true, true},
		{"auth", api(401, 10000), last, "", true, true},
		{"gate", &gate.RetryLaterError{Until: time.Now().Add(time.Minute), Reason: gate.Paced}, last, "", true, true},
		{"input gone", &tasks.TaskError{Code: tasks.CodeInputNotFound}, first, "input_not_found", false, false},
		{"bad payload", tasks.ValidationError{{Field: "text", Message: "is empty"}}, first, "payload_invalid", false, false},
		{"bucket", &objects.Error{Err: errors.New("503")}, last, "", true, false},
		{"bucket that is known not to work", &objects.OpenError{Reason: errors.New("503")}, last, "", true, false},
		{"one object that the bucket refuses once", &refusedObject{errors.New("403")}, first, "", false, false},
		{"one object that the bucket refuses twice", &refusedObject{errors.New("403")}, counters{attempts: 2}, "result_not_stored", false, false},
		{"a key that cannot be", fmt.Errorf("get: %w", storage.ErrInvalidKey), counters{}, "payload_invalid", false, false},
		{"redis", &redisError{errors.New("READONLY")}, last, "", true, false},
		{"a broken connection", fmt.Errorf("ask: %w", &net.OpError{Op: "read", Err: errors.New("reset")}), last, "", true, false},
		{"audio server", &AttemptError{tasks.CodeAudioUnreachable, &net.OpError{Op: "dial", Err: errors.New("refused")}}, first, "", false, false},
		{"audio server, spent", &AttemptError{tasks.CodeAudioUnreachable, errors.New("status 503")}, last, "audio_unreachable", false, false},
		{"unusable answer", &UnusableError{errors.New("no vectors")}, counters{attempts: 3, unusable: 1}, "", false, false},
		{"unusable answer twice", &UnusableError{errors.New("no vectors")}, counters{attempts: 2, unusable: 2}, "answer_unusable", false, false},
		{"unknown", errors.New("what is this"), first, "", false, false},
		{"unknown, spent", errors.New("what is this"), last, "internal_error", false, false},
	}
	for _, c := range cases {
		v := retryPolicy(c.err, c.used, spec)
		code := ""
		if v.fail != nil {
			code = v.fail.Code
		}
		require.Equal(t, c.fail, code, c.name)
		require.Equal(t, c.uncounted, v.uncounted, c.name)
		require.Equal(t, c.parked, v.deferred, c.name)
		require.GreaterOrEqual(t, v.after, time.Duration(0), c.name)
	}
}

// The table of codes is the client's own test data. Each row names its source.
func TestEveryKnownErrorCodeEndsATaskWithItsWord(t *testing.T) {
	raw, err := os.ReadFile("../../workersai/testdata/errors.json")
	require.NoError(t, err)
	var rows []struct {
		Code     int      `json:"code"`
		Status   int      `json:"http_status"`
		Messages []string `json:"messages"`
		Reasons  []string `json:"reasons"`
	}
	require.NoError(t, json.Unmarshal(raw, &rows))
	require.NotEmpty(t, rows)
	spec, _ := tasks.SpecOf(tasks.KindText)
	for _, row := range rows {
		for i, message := range row.Messages {
			api := &workersai.Error{Status: row.Status, Code: row.Code, Message: message}
			require.Equal(t, cmp.Or(row.Reasons[i], "attempts_exhausted"), failureCode(api), "%d %q", row.Code, message)
			v := retryPolicy(api, counters{attempts: busyBudget + 1, calls: busyBudget + 1, unpaid: busyBudget}, spec)
			require.Equal(t, api.Class() == workersai.Permanent || api.Class() == workersai.Busy, v.fail != nil, "%d %q", row.Code, message)
		}
	}
}

// An answer without usable content is paid for, so it is requested twice instead of five
// times.
func TestAnUnusableAnswerIsTriedTwice(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{})
	emulator.Fault(workersaitest.Fault{Status: 200, Body: `{"success":true,"result":{"response":null}}`})
	_, _, err := emulator.Client().Generate(t.Context(), "@cf/zai-org/glm-4.7-flash", tasks.Text{Prompt: "hi"}.Body())
	spec, _ := tasks.SpecOf(tasks.KindText)
	require.Nil(t, retryPolicy(err, counters{attempts: 4, calls: 4, unusable: 1}, spec).fail, "the other attempts failed for other reasons")
	twice := retryPolicy(err, counters{attempts: 2, calls: 2, unusable: 2}, spec)
	require.NotNil(t, twice.fail)
	require.Equal(t, tasks.CodeAnswerUnusable, twice.fail.Code)
}

func TestRetryAfterOfAnUnavailableServiceIsHeeded(t *testing.T) {
	spec, _ := tasks.SpecOf(tasks.KindText)
	v := retryPolicy(&workersai.Error{Status: 503, RetryAfter: 4 * time.Minute}, counters{attempts: 1, calls: 1}, spec)
	require.Nil(t, v.fail)
	require.Equal(t, 4*time.Minute, v.after)
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	for n := range 40 {
		most := min(2*time.Second<<min(max(n-1, 0), 6), 2*time.Minute)
		for range 20 {
			d := backoff(n)
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.Less(t, d, most)
		}
	}
}

// Invalid UTF-8 in an error would keep its task in the queue for ever.
func FuzzClean(f *testing.F) {
	f.Add("a body cut in the middle of \xc3")
	f.Add(strings.Repeat("日本", 200))
	f.Add("two\nlines\u2028and\x00more")
	f.Fuzz(func(t *testing.T, text string) {
		got := clean(text)
		if len(got) > 300 || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n\x00\u2028\u2029") {
			t.Fatalf("%q becomes %q", text, got)
		}
	})
}
