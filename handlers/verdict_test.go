package handlers

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
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
		{"busy", api(429, 3040), last, "", true, true},
		{"busy beyond all patience", api(429, 3040), counters{attempts: busyBudget, unpaid: busyBudget}, "no_capacity", false, false},
		{"throttled", api(429, 3021), last, "", true, true},
		{"quota", api(429, 4006), last, "", true, true},
		{"auth", api(401, 10000), last, "", true, true},
		{"gate", &limit.PauseError{Until: time.Now().Add(time.Minute), Reason: limit.Paced}, last, "", true, true},
		{"input gone", &tasks.Failure{Code: "input_not_found"}, first, "input_not_found", false, false},
		{"bad payload", tasks.Problems{{Field: "text", Message: "is empty"}}, first, "payload_invalid", false, false},
		{"bucket", errors.New("503"), last, "", true, false},
	}
	for _, c := range cases {
		v := judge(c.err, c.used, spec)
		code := ""
		if v.fail != nil {
			code = v.fail.Code
		}
		require.Equal(t, c.fail, code, c.name)
		require.Equal(t, c.uncounted, v.uncounted, c.name)
		require.Equal(t, c.parked, v.park, c.name)
		require.GreaterOrEqual(t, v.after, time.Duration(0), c.name)
	}
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

// A broken byte in an error would keep its task in the queue for ever.
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

func TestOnlyPublicAddressesAreDialled(t *testing.T) {
	for _, address := range []string{
		"127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.8",
		"198.18.0.1", "192.88.99.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "203.0.113.5",
		"::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1",
		"64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "5f00::1", "::ffff:127.0.0.1", "::127.0.0.1",
	} {
		require.False(t, public(netip.MustParseAddr(address).Unmap()), address)
	}
	for _, address := range []string{"1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"} {
		require.True(t, public(netip.MustParseAddr(address).Unmap()), address)
	}
}

func TestAFetchThatLeadsInsideIsRefused(t *testing.T) {
	h := newHandlers(Config{}, t.Context())
	for _, url := range []string{"https://127.0.0.1/a.mp3", "https://[::1]/a.mp3", "https://localhost/a.mp3"} {
		_, _, err := h.fetch(t.Context(), url)
		var failure *tasks.Failure
		require.ErrorAs(t, err, &failure, url)
		require.Equal(t, "url_not_allowed", failure.Code)
	}
}
