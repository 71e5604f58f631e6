package engine_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// rig is a whole system in one bubble: the real queue on an in-memory Redis, an in-memory
// bucket, and the emulator behind its HTTP client.
type rig struct {
	t      *testing.T
	server *redistest.Server
	link   *redistest.Link // between the server and its clients
	redis  *redis.Client
	store  *storage.Memory
	ai     *workersaitest.Server
	client *tasks.Client
	cfg    engine.Config
	stop   func()
}

func newRig(t *testing.T) *rig {
	redis.SetLogger(noLog{})
	r := &rig{t: t, server: redistest.New(t), link: &redistest.Link{}, store: storage.NewMemory()}
	r.redis = r.server.Client(r.link)
	r.ai = workersaitest.New(workersaitest.Options{})
	r.client = tasks.NewClient(tasks.Config{Redis: r.redis, Store: r.store})
	r.cfg = engine.Config{
		Handlers: handlers.All(nil), Redis: r.redis, Store: r.store, AI: r.ai.Client(), Concurrency: 4,
		Log: slog.New(slog.DiscardHandler),
	}
	r.cfg.Gate = gate.New(gate.Config{Redis: r.redis, Pace: catalogued, Log: r.cfg.Log})
	return r
}

// noLog discards the Redis client's message about each failed dial.
type noLog struct{}

func (noLog) Printf(context.Context, string, ...any) {}

func catalogued(model, _ string) gate.Pace {
	m, _ := catalogue.Find(model)
	return gate.Pace{PerMinute: m.PerMinute, Source: "catalogue"}
}

// work starts a worker. It stops with the test or when stop is called.
func (r *rig) work() {
	worker, err := engine.NewWorker(r.cfg)
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	r.stop = func() {
		cancel()
		require.NoError(r.t, <-done)
		r.stop = func() {}
	}
}

func (r *rig) enqueue(p tasks.Payload, opts ...tasks.Option) string {
	r.t.Helper()
	accepted, err := r.client.Enqueue(r.t.Context(), p, opts...)
	require.NoError(r.t, err)
	return accepted.ID
}

func (r *rig) wait(id string) *tasks.Result {
	r.t.Helper()
	most := 48 * time.Hour
	if os.Getenv("MUTANT") != "" {
		most = 20 * time.Minute // tools/mutants sets it: a mutant fails soon enough
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), most)
	defer cancel()
	result, err := r.client.Wait(ctx, id)
	require.NoError(r.t, err)
	time.Sleep(time.Nanosecond) // until the worker has acknowledged the task: the clock stands still before
	return result
}

// put stores an object and returns its key.
func (r *rig) put(key, body string) string {
	r.t.Helper()
	require.NoError(r.t, r.store.Put(r.t.Context(), key, strings.NewReader(body), "application/octet-stream"))
	return key
}

func (r *rig) read(key string) []byte {
	r.t.Helper()
	body, err := r.store.Get(r.t.Context(), key)
	require.NoError(r.t, err)
	defer body.Close()
	all, err := io.ReadAll(body)
	require.NoError(r.t, err)
	return all
}

// keys returns the keys of the objects below prefix.
func (r *rig) keys(prefix string) []string {
	r.t.Helper()
	var keys []string
	for info, err := range r.store.List(r.t.Context(), prefix, "") {
		require.NoError(r.t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

// calls returns the requests that the emulator received for a model.
func (r *rig) calls(model string) []workersaitest.Request {
	return slices.DeleteFunc(r.ai.Requests(), func(q workersaitest.Request) bool { return q.Model != model })
}

func output[T any](t *testing.T, r *tasks.Result) T {
	t.Helper()
	require.Nil(t, r.Error)
	require.Equal(t, tasks.Completed, r.Status)
	var out T
	require.NoError(t, json.Unmarshal(r.Output, &out))
	return out
}
