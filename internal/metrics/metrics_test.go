package metrics_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/limits"
	"github.com/neuronmill/neuronmill/internal/metrics"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const embedder = "@cf/baai/bge-m3"

// measured is a registry with the metrics of a fleet on a Redis in memory.
func measured(t *testing.T) (*prometheus.Registry, *metrics.Metrics, *redis.Client, *gate.Gate) {
	t.Helper()
	rdb, none := redistest.Memory(t), limits.Limits(nil)
	g := gate.New(gate.Config{Redis: rdb, Pace: none.Pace, Total: none.Total, Log: slog.New(slog.DiscardHandler)})
	registry := prometheus.NewRegistry()
	m, err := metrics.Of(registry)
	require.NoError(t, err)
	m.ReadFleet(&monitor.Monitor{Redis: rdb}, g)
	m.WatchRedis(rdb)
	return registry, m, rdb, g
}

// happen feeds every metric of a process once.
func happen(m *metrics.Metrics) {
	e := tasks.Event{Kind: tasks.KindEmbedding, Lane: tasks.Bulk, Model: embedder}
	tell := func(of tasks.EventType, change func(*tasks.Event)) {
		e := e
		e.Type = of
		change(&e)
		m.Observe(e)
		m.Accepted("http")(e)
	}
	tell(tasks.EventAccepted, func(*tasks.Event) {})
	tell(tasks.EventStarted, func(e *tasks.Event) { e.Attempt, e.Queued, e.Waited = 1, time.Second, time.Minute })
	tell(tasks.EventCalled, func(e *tasks.Event) {
		e.Outcome, e.Code, e.Took, e.Riders = "quota", "4006", 200*time.Millisecond, 3
	})
	tell(tasks.EventCalled, func(e *tasks.Event) {
		e.Outcome, e.Took, e.Neurons, e.Riders, e.Trace = "ok", 200*time.Millisecond, 1.5, 2, "00-"+strings.Repeat("ab", 16)+"-0123456789abcdef-01"
	})
	tell(tasks.EventCalled, func(e *tasks.Event) { e.Outcome, e.Neurons, e.Rider, e.Riders = "ok", 0.5, 1, 2 })
	tell(tasks.EventFinished, func(e *tasks.Event) { e.Outcome, e.Took, e.Stored = "completed", time.Minute, time.Millisecond })
	tell(tasks.EventFinished, func(e *tasks.Event) { e.Outcome, e.Code, e.Repeated = "failed", tasks.CodeCancelled, true })
	tell(tasks.EventFinished, func(e *tasks.Event) { e.Outcome, e.Code = "failed", tasks.CodeCancelled })
	m.Webhook("delivered")
	m.Bucket(false)
}

func TestTheMetricsPassTheLinterOfPrometheus(t *testing.T) {
	registry, m, _, g := measured(t)
	happen(m)
	require.NoError(t, g.Set(t.Context(), embedder, 600))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestEventsBecomeCountersAndAShareOfACallIsNoCall(t *testing.T) {
	registry, m, _, _ := measured(t)
	happen(m)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP neuronmill_calls_total Calls of Workers AI that this process sent. The code is that of the API or the HTTP status; ok and lost are ours.
# TYPE neuronmill_calls_total counter
neuronmill_calls_total{code="4006",model="@cf/baai/bge-m3"} 1
neuronmill_calls_total{code="ok",model="@cf/baai/bge-m3"} 1
# HELP neuronmill_neurons_total Neurons that the calls of this process cost, at list price where the API states none.
# TYPE neuronmill_neurons_total counter
neuronmill_neurons_total{kind="embedding",model="@cf/baai/bge-m3"} 2
# HELP neuronmill_tasks_accepted_total Tasks that this process accepted, by the surface that submitted them.
# TYPE neuronmill_tasks_accepted_total counter
neuronmill_tasks_accepted_total{kind="embedding",lane="bulk",surface="http"} 1
# HELP neuronmill_tasks_ended_total Tasks that ended in this process, by outcome and error code.
# TYPE neuronmill_tasks_ended_total counter
neuronmill_tasks_ended_total{code="",kind="embedding",model="@cf/baai/bge-m3",outcome="completed"} 1
neuronmill_tasks_ended_total{code="cancelled",kind="embedding",model="@cf/baai/bge-m3",outcome="failed"} 1
# HELP neuronmill_bucket_refuses 1 while the bucket takes no results from this worker, so that it sends no calls.
# TYPE neuronmill_bucket_refuses gauge
neuronmill_bucket_refuses 1
`), "neuronmill_calls_total", "neuronmill_neurons_total", "neuronmill_tasks_accepted_total", "neuronmill_tasks_ended_total", "neuronmill_bucket_refuses"))

	text := scrape(t, registry, "application/openmetrics-text")
	require.Contains(t, text, `neuronmill_task_seconds_count{kind="embedding",lane="bulk",phase="gate"} 1`)
	require.Contains(t, text, `# {trace_id="`+strings.Repeat("ab", 16)+`"} 0.2`)
	require.Contains(t, scrape(t, registry, "text/plain"), `neuronmill_call_texts_sum{model="@cf/baai/bge-m3"} 5`)
}

// scrape returns the body of a scrape.
func scrape(t *testing.T, g prometheus.Gatherer, accept string) string {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	req.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	metrics.Handler(g).ServeHTTP(w, req)
	require.Equal(t, http.StatusOK, w.Code)
	return w.Body.String()
}

func TestTheFleetIsReadFromRedis(t *testing.T) {
	registry, _, rdb, g := measured(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	for range 3 {
		_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "Name three rivers"}, tasks.WithLane(tasks.Bulk))
		require.NoError(t, err)
	}
	require.NoError(t, g.Set(t.Context(), embedder, 0))
	require.NoError(t, g.Set(t.Context(), "@cf/unknown/model", 7))
	text := scrape(t, registry, "text/plain")
	for _, line := range []string{
		"neuronmill_redis_up 1",
		`neuronmill_waiting{kind="text",lane="bulk"} 3`,
		`neuronmill_waiting{kind="text",lane="interactive"} 0`,
		`neuronmill_oldest_waiting_seconds{kind="text",lane="interactive"} 0`,
		`neuronmill_gate_state{model="@cf/baai/bge-m3",state="closed"} 1`,
		`neuronmill_gate_state{model="@cf/baai/bge-m3",state="open"} 0`,
		`neuronmill_workers{kind="text",state="running"} 0`,
		`neuronmill_workers_wanted{kind="text"} 1`,
		`neuronmill_workers_wanted{kind="image"} 0`,
	} {
		require.Contains(t, text, "\n"+line+"\n")
	}
	require.NotContains(t, text, "@cf/unknown/model")
	require.NotContains(t, text, `neuronmill_oldest_waiting_seconds{kind="text",lane="bulk"} 0`+"\n")
}

// counted counts the commands that a client sends, those in pipelines too.
type counted struct{ commands atomic.Int64 }

func (c *counted) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return next(ctx, network, address)
	}
}

func (c *counted) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.commands.Add(1); return next(ctx, cmd) }
}

func (c *counted) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.commands.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}

func TestAScrapeOf100000TasksAnd10000BatchesTakesFewCommands(t *testing.T) {
	registry, _, rdb, g := measured(t)
	require.NoError(t, g.Set(t.Context(), embedder, 600))
	require.NoError(t, g.Set(t.Context(), "@cf/openai/whisper", 600))
	for i := range 100 {
		ids := make([]any, 1000)
		for k := range ids {
			ids[k] = fmt.Sprintf("t_%d_%d", i, k)
		}
		require.NoError(t, rdb.RPush(t.Context(), "asynq:{embedding:bulk}:pending", ids...).Err())
		require.NoError(t, rdb.SAdd(t.Context(), "neuronmill:batches", ids[:100]...).Err())
	}
	warm := scrape(t, registry, "text/plain") // Redis gets the scripts
	require.Contains(t, warm, `neuronmill_waiting{kind="embedding",lane="bulk"} 100000`)
	require.Contains(t, warm, "neuronmill_batches 10000")

	// Another process scrapes, so that nothing is remembered.
	hook := &counted{}
	rdb.AddHook(hook)
	none := limits.Limits(nil)
	other := prometheus.NewRegistry()
	m, err := metrics.Of(other)
	require.NoError(t, err)
	m.ReadFleet(&monitor.Monitor{Redis: rdb}, gate.New(gate.Config{Redis: rdb, Pace: none.Pace, Total: none.Total}))
	require.Equal(t, "\n"+strings.TrimPrefix(strings.Join(grep(warm, "neuronmill_waiting{"), "\n"), "\n"),
		"\n"+strings.Join(grep(scrape(t, other, "text/plain"), "neuronmill_waiting{"), "\n"))
	require.Less(t, hook.commands.Load(), int64(10))
	again := hook.commands.Load()
	for range 20 {
		scrape(t, other, "text/plain")
	}
	require.Less(t, hook.commands.Load(), 20*again, "scrapes that follow at once share a reading")
}

func grep(text, part string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, part) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func TestLabelsAreBoundedWhateverTasksSay(t *testing.T) {
	registry, m, _, g := measured(t)
	for i := range 5000 {
		name := fmt.Sprint("made-up-", i)
		e := tasks.Event{Kind: tasks.Kind(name), Lane: tasks.Lane(name), Model: "@cf/a/" + name, Code: fmt.Sprint(100_000 + i), Outcome: name, Tenant: name, ID: name, Attempt: 1}
		for _, of := range []tasks.EventType{tasks.EventAccepted, tasks.EventStarted, tasks.EventCalled, tasks.EventFinished} {
			e.Type = of
			m.Observe(e)
			m.Accepted("http")(e)
		}
		if i < 100 {
			require.NoError(t, g.Set(t.Context(), "@cf/a/"+name, 1))
		}
	}
	for _, spec := range tasks.Specs {
		for _, lane := range []tasks.Lane{tasks.Interactive, tasks.Bulk} {
			for _, of := range []tasks.EventType{tasks.EventAccepted, tasks.EventStarted, tasks.EventCalled, tasks.EventFinished} {
				m.Observe(tasks.Event{Type: of, Kind: spec.Kind, Lane: lane, Model: spec.Model(), Outcome: "ok", Attempt: 1, Stored: 1})
			}
		}
	}
	n, err := testutil.GatherAndCount(registry)
	require.NoError(t, err)
	require.Less(t, n, 400, "metrics, a histogram as one")
	text := scrape(t, registry, "text/plain")
	require.NotContains(t, text, "made-up")
	require.Less(t, strings.Count(text, "\n"), 1500)
}

func TestARedisThatIsAwayIsSaidAndHidesNoCounters(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := metrics.Of(registry)
	require.NoError(t, err)
	away := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1, Dialer: func(context.Context, string, string) (net.Conn, error) {
		return nil, io.ErrUnexpectedEOF
	}})
	defer away.Close()
	m.ReadFleet(&monitor.Monitor{Redis: away}, gate.New(gate.Config{Redis: away}))
	happen(m)
	text := scrape(t, registry, "text/plain")
	require.Contains(t, text, "\nneuronmill_redis_up 0\n")
	require.NotContains(t, text, "neuronmill_waiting{")
	require.Contains(t, text, "neuronmill_calls_total{")
}

func TestWorkersOnOneRegistererShareTheirMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	one, err := metrics.Of(registry)
	require.NoError(t, err)
	two, err := metrics.Of(registry)
	require.NoError(t, err)
	require.Same(t, one, two)
	require.NoError(t, registry.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: "mine_total"})))
}

func TestMetricsWithoutAKeyAreServedOnLoopbackOnly(t *testing.T) {
	_, err := metrics.Listen(t.Context(), "0.0.0.0:0", false)
	require.ErrorContains(t, err, "--metrics-open")
	_, err = metrics.Listen(t.Context(), "nonsense", false)
	require.ErrorContains(t, err, "host:port")

	l, err := metrics.Listen(t.Context(), "127.0.0.1:0", false)
	require.NoError(t, err)
	registry, _, _, _ := measured(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- metrics.Serve(ctx, l, registry, slog.New(slog.DiscardHandler)) }()
	get := func(path string) (int, string) {
		res, err := http.Get("http://" + l.Addr().String() + path)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(body)
	}
	status, body := get("/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "neuronmill_redis_up 1")
	status, _ = get("/debug/pprof/")
	require.Equal(t, http.StatusNotFound, status)
	stop()
	require.NoError(t, <-ended)
}

// documented returns the metrics of docs/metrics.md: the first cell of each row of its
// tables, with the labels in the second.
func documented(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	rows := map[string]string{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`neuronmill_") {
			continue
		}
		rows[strings.Trim(cells[1], " `")] = strings.NewReplacer("`", "", " ", "", "-", "").Replace(cells[2])
	}
	return rows
}

func TestThePageOfMetricsListsEachWithItsLabels(t *testing.T) {
	registry, m, rdb, g := measured(t)
	happen(m)
	require.NoError(t, g.Set(t.Context(), embedder, 600))
	require.NoError(t, rdb.ZAdd(t.Context(), "neuronmill:parked:{embedding:bulk}:"+embedder, redis.Z{Score: 1, Member: "t"}).Err())
	require.NoError(t, rdb.SAdd(t.Context(), "neuronmill:models:{embedding:bulk}", embedder).Err())
	families, err := registry.Gather()
	require.NoError(t, err)
	there := map[string]string{"neuronmill_build_info": "version"} // of the command
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		there[f.GetName()] = strings.Join(labels, ",")
	}
	require.Equal(t, there, documented(t), "docs/metrics.md and the code differ")
}
