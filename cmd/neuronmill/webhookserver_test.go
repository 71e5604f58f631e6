package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/require"
)

// delivery is a request that a receiver of webhooks got, as verifyDeliveries takes it.
type delivery struct {
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func (d delivery) id() string { return d.Headers["Webhook-Id"] }

// receiver is a web backend that gets webhooks on loopback. It answers 503 to the first try
// at /retry, 410 at /gone, and holds requests at /slow.
type receiver struct {
	*httptest.Server
	hold chan struct{} // closed when /slow may answer

	mu  sync.Mutex
	got []delivery
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{hold: make(chan struct{})}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	headers := map[string]string{}
	for name := range req.Header {
		headers[name] = req.Header.Get(name)
	}
	first := len(r.at(req.URL.Path)) == 0
	r.mu.Lock()
	r.got = append(r.got, delivery{Path: req.URL.Path, Headers: headers, Body: string(body)})
	r.mu.Unlock()
	switch {
	case req.URL.Path == "/gone":
		w.WriteHeader(http.StatusGone)
	case req.URL.Path == "/retry" && first:
		w.WriteHeader(http.StatusServiceUnavailable)
	case req.URL.Path == "/slow":
		select {
		case <-r.hold:
		case <-req.Context().Done():
		}
	}
}

// at returns the deliveries at a path.
func (r *receiver) at(path string) []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.got), func(d delivery) bool { return d.Path != path })
}

// verifyDeliveries verifies deliveries, one JSON document per line, with an independent
// library, and prints the id of each task.
const verifyDeliveries = `
const {Webhook} = require("standardwebhooks");
const webhook = new Webhook(process.argv[1]);
for (const line of require("node:fs").readFileSync(0, "utf8").trim().split("\n")) {
  const {headers, body} = JSON.parse(line);
  const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
  console.log(webhook.verify(body, lower).data.id);
}
`

// TestWebhooksReachAReceiverInAnAllowedPrivateNetwork follows webhooks from the request that
// submits a task to a receiver on loopback, over server and worker as processes.
func TestWebhooksReachAReceiverInAnAllowedPrivateNetwork(t *testing.T) {
	t.Parallel()
	npm := realtest.NeedNPM(t, "standardwebhooks@1.1.1")
	f := newFleet(t)
	f.env = append(f.env, "NEURONMILL_WEBHOOK_SECRET=0123456789abcdef0123456789abcdef")
	backend := newReceiver(t)
	address := realtest.FreeAddr(t)
	strict := realtest.FreeAddr(t)
	f.start("serve", "--listen", strict)
	f.env = append(f.env, "NEURONMILL_WEBHOOK_ALLOW=127.0.0.1/32")
	f.start("serve", "--listen", address)
	f.start("worker", "--concurrency", "2")
	realtest.WaitTCP(t, address)
	realtest.WaitTCP(t, strict)
	server := site{t, "http://" + address}
	task := func(path, about string) string {
		return fmt.Sprintf(`{"kind":"text","input":{"prompt":"about %s"},"webhook":%q}`, about, backend.URL+path)
	}
	submit := func(path, about string) string {
		t.Helper()
		status, got := server.send(t.Context(), http.MethodPost, "/v1/tasks", strings.NewReader(task(path, about)), "Prefer", "wait=60")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "completed", got.State)
		return got.ID
	}
	arrived := func(path string, n int) {
		t.Helper()
		require.Eventually(t, func() bool { return len(backend.at(path)) >= n }, time.Minute, 50*time.Millisecond, path)
	}

	status, _ := site{t, "http://" + strict}.send(t.Context(), http.MethodPost, "/v1/tasks", strings.NewReader(task("/strict", "nobody")))
	require.Equal(t, http.StatusBadRequest, status, "without the setting private receivers are refused")

	// More deliveries are held than one host may have under way, and results come all the same.
	var slow []string
	for i := range 6 {
		slow = append(slow, submit("/slow", fmt.Sprint("slow ", i)))
	}
	arrived("/slow", 1)
	submit("/slow", "one more")
	close(backend.hold)

	again := submit("/retry", "a receiver that is down at first")
	arrived("/retry", 2)
	tries := backend.at("/retry")
	require.Equal(t, "msg_"+again, tries[0].id())
	require.Equal(t, tries[0].id(), tries[1].id(), "each try has the same id")
	require.Equal(t, tries[0].Body, tries[1].Body)

	gone := submit("/gone", "an endpoint that is gone")
	arrived("/gone", 1)
	later := submit("/gone", "the same endpoint")
	var log string
	require.Eventually(t, func() bool {
		log = f.run("webhook", "log", "--limit", "100")
		return strings.Contains(log, "410 earlier")
	}, time.Minute, 200*time.Millisecond)
	require.Len(t, backend.at("/gone"), 1, "an endpoint that is gone gets nothing more")
	for _, want := range []string{again, gone, later, "status 503", "status 410", "delivered"} {
		require.Contains(t, log, want)
	}

	f.run("webhook", "replay", again)
	arrived("/retry", 3)
	require.Equal(t, tries[0].id(), backend.at("/retry")[2].id(), "a replay has the same id")
	arrived("/slow", len(slow)+1)

	secret, _, _ := strings.Cut(f.run("webhook", "keys"), "\n")
	backend.mu.Lock()
	all := slices.Clone(backend.got)
	backend.mu.Unlock()
	var lines strings.Builder
	for _, d := range all {
		require.NoError(t, json.NewEncoder(&lines).Encode(d))
	}
	verify := exec.CommandContext(t.Context(), "node", "-e", verifyDeliveries, secret)
	verify.Dir, verify.Stdin = npm, strings.NewReader(lines.String())
	out, err := verify.CombinedOutput()
	require.NoError(t, err, "%s", out)
	n := 0
	for ids := bufio.NewScanner(strings.NewReader(string(out))); ids.Scan(); n++ {
		require.Equal(t, all[n].id(), "msg_"+ids.Text(), "the signature verifies")
	}
	require.Len(t, all, n)
}
