package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

const goldenFile = "testdata/bodies.txt"

// recorder calls routes one after the other and records their answers.
type recorder struct {
	*bench
	ids  map[string]string // of things by name: $task
	out  bytes.Buffer
	seen map[string]bool // patterns of routes
}

// masks replace what differs between runs.
var masks = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
	{regexp.MustCompile(`\b9466\d{5}\b`), "SECONDS"}, // a bubble begins in the year 2000
	{regexp.MustCompile(`\b(t|b|a|file|batch|req|chatcmpl|call|img|m)[_-][0-9a-z]{12,}(-[0-9a-f-]{8,})?`), "$1-ID"},
	{regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`), "UUID"},
	{regexp.MustCompile(`\b[0-9a-f]{16,64}\b`), "HEX"},
	{regexp.MustCompile(`[A-Za-z0-9_+/=-]{100,}`), "TOKEN"},
}

func mask(text string) string {
	for _, m := range masks {
		text = m.form.ReplaceAllString(text, m.with)
	}
	return text
}

// masked masks a decoded document. Of a long list of numbers it keeps two.
func masked(v any) any {
	switch v := v.(type) {
	case string:
		return mask(v)
	case float64:
		if v > 9e8 {
			return "SECONDS"
		}
	case map[string]any:
		for name, member := range v {
			switch name {
			case "pid", "host", "slots": // of this machine
				v[name] = strings.ToUpper(name)
			case "forecast": // by the second
				v[name] = slices.Sorted(maps.Keys(member.(map[string]any)))
			default:
				v[name] = masked(member)
			}
		}
	case []any:
		if len(v) > 20 {
			if _, ok := v[0].(float64); ok {
				return append(v[:2:2], fmt.Sprintf("and %d more", len(v)-2))
			}
			v = append(v[:2:2], fmt.Sprintf("and %d more", len(v)-2))
		}
		for i := range v {
			v[i] = masked(v[i])
		}
		return v
	}
	return v
}

// record calls a route; names of things in path and body stand for their ids.
func (r *recorder) record(what, method, path, body string, headers ...string) answer {
	r.t.Helper()
	for name, id := range r.ids {
		path, body = strings.ReplaceAll(path, name, id), strings.ReplaceAll(body, name, id)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, nil)
	require.NoError(r.t, err)
	_, pattern := r.mux.Handler(req)
	r.seen[pattern] = true
	res := r.call(method, path, body, headers...)
	contentType := res.Header.Get("Content-Type")
	fmt.Fprintf(&r.out, "=== %s: %s\n%d %s\n", pattern, what, res.StatusCode, contentType)
	var document any
	switch {
	case strings.Contains(contentType, "json") && json.Unmarshal(res.body, &document) == nil:
		pretty, err := json.MarshalIndent(masked(document), "", "  ")
		require.NoError(r.t, err)
		r.out.Write(append(pretty, '\n'))
	case pattern == "GET /metrics": // the figures are those of the moment
		for line := range strings.Lines(string(res.body)) {
			if strings.HasPrefix(line, "# TYPE neuronmill_") {
				r.out.WriteString(line)
			}
		}
	case strings.HasPrefix(contentType, "text/"):
		r.out.WriteString(mask(string(res.body)) + "\n")
	}
	r.out.WriteByte('\n')
	return res
}

// named keeps the id in an answer under a name.
func (r *recorder) named(name string, res answer) {
	var document map[string]any
	require.NoError(r.t, json.Unmarshal(res.body, &document), "%s", res.body)
	for _, inner := range []string{"run", "plan"} {
		if m, ok := document[inner].(map[string]any); ok {
			document = m
		}
	}
	for _, member := range []string{"id", "token", "key"} {
		if id, ok := document[member].(string); ok {
			r.ids[name] = id
			return
		}
	}
	require.Fail(r.t, "no id", "%s", res.body)
}

// TestBodiesAreTheGoldenOnes holds the body of every route of the document, and of the
// refusals that each caller meets.
func TestBodiesAreTheGoldenOnes(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench, dial func() net.Conn) {
		client := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }}
		defer client.CloseIdleConnections()
		b.url, b.transport = "http://mill", client
		r := &recorder{bench: b, ids: map[string]string{}, seen: map[string]bool{}}
		r.refusals()
		r.waitingTasks()
		r.schedules()
		r.filesAndBatches()
		r.fleet()
		b.withWorker(r.endedTasks)
		b.eachRoute(func(method, path string, _ *huma.Operation) {
			require.True(t, r.seen[method+" "+path], "%s %s is not recorded", method, path)
		})
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(goldenFile, r.out.Bytes(), 0o600))
		}
		golden, err := os.ReadFile(goldenFile)
		require.NoError(t, err, "go test ./internal/api -run Golden -update makes it")
		require.Equal(t, string(golden), r.out.String(), "go test ./internal/api -run Golden -update accepts the change")
	})
}

// withWorker runs a worker on the emulator while f runs.
func (b *bench) withWorker(f func()) {
	emulator := workersaitest.New(workersaitest.Options{NoLimits: true})
	w, err := worker.New(worker.Config{Redis: b.cfg.Redis, Store: b.store, AI: emulator.Client(), Log: slog.New(slog.DiscardHandler), Poll: time.Second, Observer: b.cfg.Tracer.Observer()})
	require.NoError(b.t, err)
	ctx, stop := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		stop()
		require.NoError(b.t, <-done)
	}()
	time.Sleep(time.Second) // in the bubble: the worker has shown that it lives
	f()
}

func (r *recorder) refusals() {
	all := r.key
	for _, path := range []string{"/v1/tasks", "/v1/models"} {
		r.key = "wrong"
		r.record("a wrong key", http.MethodGet, path, "")
		r.key = r.newKey("default", keys.UsageRead)
		r.record("a key without the scope", http.MethodGet, path, "")
		r.key = all
	}
	r.record("no such task", http.MethodGet, "/v1/tasks/t_none", "")
	r.record("a wrong field", http.MethodPost, "/v1/tasks", `{"kind":"translation","input":{"text":"Good morning"}}`)
	r.record("no JSON", http.MethodPost, "/v1/tasks", `{`)
	r.record("a wrong field", http.MethodPost, "/v1/embeddings", `{"model":"bge-m3","input":[]}`)
	r.record("a wrong model", http.MethodPost, "/v1/chat/completions", `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`)
	r.record("no file", http.MethodPost, "/v1/files", `{}`)
}

const later = `{"kind":"translation","input":{"text":"Good morning","target_lang":"es"},"run_at":"2000-01-02T00:00:00Z","metadata":{"order":"7"}}`

func (r *recorder) waitingTasks() {
	r.named("$task", r.record("one that no worker takes", http.MethodPost, "/v1/tasks", goodMorning))
	r.named("$later", r.record("one with a start", http.MethodPost, "/v1/tasks", later))
	r.record("one that waits", http.MethodGet, "/v1/tasks/$later", "")
	r.record("those that wait", http.MethodGet, "/v1/tasks", "")
	r.record("not ended", http.MethodGet, "/v1/tasks/$later/result", "")
	r.record("not failed", http.MethodPost, "/v1/tasks/$later/retry", "")
	r.record("a copy", http.MethodPost, "/v1/tasks/$later/copy", `{"metadata":{"order":"8"}}`, "Content-Type: application/merge-patch+json")
	r.record("a waiting one", http.MethodDelete, "/v1/tasks/$later", "")
	r.record("one good and one bad", http.MethodPost, "/v1/tasks:batch", `{"tasks":[`+later+`,{"kind":"text","input":{}}]}`)
	r.record("one good and one bad", http.MethodPost, "/v1/plan", `{"tasks":[`+later+`,{"kind":"text","input":{}}]}`)
	r.record("a file", http.MethodPut, "/v1/uploads", string(workersaitest.SampleWAV()), "Content-Type: audio/wav")
	r.record("a bucket without links", http.MethodPost, "/v1/uploads:presign", `{"bytes":1048576,"content_type":"audio/wav"}`)
	r.record("no length", http.MethodPost, "/v1/uploads:presign", `{"content_type":"audio/wav"}`)
	r.named("$token", r.record("a plan", http.MethodPost, "/v1/actions", `{"action":"cancel","filter":{"kind":"image"}}`))
	r.named("$action", r.record("a run", http.MethodPost, "/v1/actions", `{"token":"$token"}`))
	time.Sleep(time.Second) // in the bubble: it has ended
	r.record("an ended one", http.MethodGet, "/v1/actions/$action", "")
}

func (r *recorder) schedules() {
	r.record("a new one", http.MethodPost, "/v1/schedules", report)
	for _, what := range []string{"pause", "resume", "run"} {
		r.record("a stored one", http.MethodPost, "/v1/schedules/report/"+what, "")
	}
	r.record("all", http.MethodGet, "/v1/schedules", "")
	r.record("one", http.MethodGet, "/v1/schedules/report", "")
	r.record("its runs", http.MethodGet, "/v1/schedules/report/history", "")
	r.record("one", http.MethodDelete, "/v1/schedules/report", "")
}

func (r *recorder) filesAndBatches() {
	r.named("$file", r.record("lines", http.MethodPost, "/v1/files", batchFile, "Content-Type: multipart/form-data; boundary=x"))
	r.record("all", http.MethodGet, "/v1/files", "")
	r.record("one", http.MethodGet, "/v1/files/$file", "")
	r.record("its bytes", http.MethodGet, "/v1/files/$file/content", "")
	r.named("$batch", r.record("a new one", http.MethodPost, "/v1/batches", `{"input_file_id":"$file","endpoint":"/v1/embeddings","completion_window":"24h","metadata":{"night":"1"}}`))
	r.record("all", http.MethodGet, "/v1/batches", "")
	r.record("one", http.MethodGet, "/v1/batches/$batch", "")
	r.record("one", http.MethodPost, "/v1/batches/$batch/cancel", "")
	r.record("one", http.MethodDelete, "/v1/files/$file", "")
	r.record("a deleted one", http.MethodGet, "/v1/files/$file", "")
}

func (r *recorder) fleet() {
	for _, path := range []string{"/healthz", "/readyz", "/v1/gates", "/v1/workers", "/v1/scaling", "/v1/health/report", "/v1/models", "/v1/budgets", "/v1/usage", "/metrics"} {
		r.record("all", http.MethodGet, path, "")
	}
	r.record("one", http.MethodGet, "/v1/models/bge-m3", "")
	r.record("a cap", http.MethodPut, "/v1/budgets", `{"scope":"tenant","name":"acme","neurons":500,"over":"fail"}`)
	r.record("a cap", http.MethodDelete, "/v1/budgets?scope=tenant&name=acme", "")
}

func (r *recorder) endedTasks() {
	wait := "Prefer: wait=30"
	r.named("$done", r.record("one that ends in time", http.MethodPost, "/v1/tasks", `{"kind":"translation","input":{"text":"Good night","target_lang":"de"}}`, wait))
	r.record("an ended one", http.MethodGet, "/v1/tasks/$done", "")
	r.record("a document", http.MethodGet, "/v1/tasks/$done/result", "")
	r.record("a bucket without links", http.MethodGet, "/v1/tasks/$done/result?link=true", "")
	r.record("a wrong parameter", http.MethodGet, "/v1/tasks/$done/result?link=maybe", "")
	time.Sleep(time.Second) // in the bubble: its worker has forgotten what happened to it
	r.record("of an ended one", http.MethodGet, "/v1/tasks/$done/events", "")
	r.record("an ended one", http.MethodDelete, "/v1/tasks/$done", "")
	body, contentType := form(r.t, "file", string(workersaitest.SampleWAV()), "task", `{"input":{"language":"en"}}`)
	r.record("a recording", http.MethodPost, "/v1/transcriptions", body, "Content-Type: "+contentType, wait)
	r.record("texts", http.MethodPost, "/v1/embeddings", `{"model":"bge-m3","input":["a","b"]}`)
	r.record("a question", http.MethodPost, "/v1/chat/completions", `{"model":"glm-4.7-flash","messages":[{"role":"user","content":"Hello"}]}`)
	r.record("a stream", http.MethodPost, "/v1/chat/completions", `{"model":"glm-4.7-flash","stream":true,"messages":[{"role":"user","content":"Hello"}]}`)
	r.record("a prompt", http.MethodPost, "/v1/images/generations", `{"model":"flux-1-schnell","prompt":"a mill"}`)
	for _, path := range []string{"/v1/audio/transcriptions", "/v1/audio/translations"} {
		body, contentType := form(r.t, "file", string(workersaitest.SampleWAV()), "model", "whisper-large-v3-turbo")
		r.record("a recording", http.MethodPost, path, body, "Content-Type: "+contentType)
	}
	failed := r.submitted(`{"kind":"text","input":{"prompt":"hi"},"run_at":"2000-01-03T00:00:00Z"}`)
	r.ids["$failed"] = failed.ID
	require.NoError(r.t, r.client("default").Cancel(r.t.Context(), failed.ID))
	_, err := r.client("default").Wait(r.t.Context(), failed.ID)
	require.NoError(r.t, err)
	r.record("a failed one", http.MethodGet, "/v1/tasks/$failed", "")
	r.record("a failed one", http.MethodPost, "/v1/tasks/$failed/retry", "")
	time.Sleep(time.Minute) // in the bubble: ended tasks are counted
	r.record("those that ended", http.MethodGet, "/v1/tasks?state=ended&limit=2", "")
	r.record("a day", http.MethodGet, "/v1/usage", "")
	r.record("with a worker", http.MethodGet, "/v1/gates", "")
	r.record("one that runs", http.MethodGet, "/v1/workers", "")
}
