package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// wire is a whole system over real connections, where the replies of Redis and of the
// bucket can get lost. Each has a database and a prefix of its own, so that many run on
// the same servers.
type wire struct {
	t             *testing.T
	redis, bucket *realtest.Tap
	direct        *redis.Client // past the tap
	client        *tasks.Client
	ai            *workersaitest.Server
	cfg           handlers.Config
}

// servers are what the wires of a test share.
type servers struct {
	redis, bucket *realtest.Server
	database      chan int
}

func newServers(t *testing.T) *servers {
	s := &servers{realtest.Redis(t), realtest.S3Server(t), make(chan int, 16)}
	for i := range cap(s.database) {
		s.database <- i
	}
	return s
}

func (s *servers) wire(t *testing.T, prefix string) *wire {
	w := &wire{t: t, redis: realtest.NewTap(t, s.redis.Addr), bucket: realtest.NewTap(t, s.bucket.Addr)}
	database := <-s.database
	w.direct = redis.NewClient(&redis.Options{Addr: s.redis.Addr, DB: database})
	require.NoError(t, w.direct.FlushDB(t.Context()).Err())
	tapped := redis.NewClient(&redis.Options{Addr: w.redis.Addr, DB: database, ReadTimeout: 300 * time.Millisecond})
	t.Cleanup(func() {
		tapped.Close()
		w.direct.Close()
		s.database <- database
	})
	config, err := s3store.ParseURL(fmt.Sprintf("s3://%s/%s?region=us-east-1&path_style=true&endpoint=http://%s", realtest.Bucket, prefix, w.bucket.Addr))
	require.NoError(t, err)
	config.Patience = 300 * time.Millisecond
	store, err := s3store.Open(t.Context(), config)
	require.NoError(t, err)
	w.client = tasks.NewClient(tasks.Config{Redis: tapped, Store: store})
	w.ai = workersaitest.New(workersaitest.Options{})
	w.cfg = handlers.Config{
		Redis: tapped, Store: store, AI: w.ai.Client(), Kinds: []tasks.Kind{tasks.KindTranslation}, Concurrency: 1,
		Log: slog.New(slog.DiscardHandler),
	}
	w.cfg.Gate = limit.New(limit.Config{Redis: tapped, Pace: catalogued, Log: w.cfg.Log})
	return w
}

// work does tasks until the returned func is called.
func (w *wire) work() (stop func()) {
	worker, err := handlers.NewWorker(w.cfg)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(w.t, <-done)
	}
}

var hello = tasks.Translation{Text: "hello", TargetLang: "es"}

// settled waits until a task has its result and nothing else is left of it. A task that
// a lost reply left without an owner gets its lease ended early.
func (w *wire) settled(id string) {
	w.t.Helper()
	queue := "asynq:{" + tasks.Queue(tasks.KindTranslation, tasks.Interactive) + "}:"
	begun := time.Now()
	require.Eventually(w.t, func() bool {
		left, err := w.direct.Exists(w.t.Context(), queue+"t:"+id).Result()
		_, missing := w.cfg.Store.Head(w.t.Context(), tasks.ResultKey("default", id))
		_, pending := w.cfg.Store.Head(w.t.Context(), tasks.PendingKey("default", id))
		if time.Since(begun) > 4*time.Second {
			w.direct.ZAddXX(w.t.Context(), queue+"lease", redis.Z{Score: 1, Member: id})
			begun = time.Now()
		}
		return err == nil && left == 0 && missing == nil && errors.Is(pending, storage.ErrNotFound)
	}, time.Minute, 20*time.Millisecond)
	r, err := w.client.Result(w.t.Context(), id)
	require.NoError(w.t, err)
	require.Equal(w.t, tasks.Completed, r.Status)
}

// lives does a task with the n-th reply of a server lost while the worker lives.
func (w *wire) lives(tap *realtest.Tap, n int, silent bool) (replies int) {
	accepted, err := w.client.Enqueue(w.t.Context(), hello)
	require.NoError(w.t, err)
	tap.Lose(n, silent)
	stop := w.work()
	w.settled(accepted.ID)
	replies = tap.Replies()
	stop()
	require.Len(w.t, w.ai.Requests(), 1, "a lost reply of Redis or the bucket costs no call")
	return replies
}

// TestAnyReplyToAWorkerMayGetLost loses each reply of a worker's life once: the command
// ran, the worker does not know.
func TestAnyReplyToAWorkerMayGetLost(t *testing.T) {
	t.Parallel()
	s := newServers(t)
	taps := map[string]func(*wire) *realtest.Tap{
		"redis":  func(w *wire) *realtest.Tap { return w.redis },
		"bucket": func(w *wire) *realtest.Tap { return w.bucket },
	}
	for name, of := range taps {
		w := s.wire(t, name)
		all := w.lives(of(w), 0, false)
		t.Logf("%s answers about %d times in the life of a task", name, all)
		for n := 1; n <= all; n++ {
			for _, silent := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/silent=%v", name, n, silent), func(t *testing.T) {
					t.Parallel()
					w := s.wire(t, fmt.Sprintf("%s-%d-%v", name, n, silent))
					w.lives(of(w), n, silent)
				})
			}
		}
	}
}

// TestAnyReplyToAProducerMayGetLost does the same where a task is accepted. Whoever has
// a key asks again until it is settled, and gets one task.
func TestAnyReplyToAProducerMayGetLost(t *testing.T) {
	t.Parallel()
	s := newServers(t)
	for n := 1; n <= 12; n++ {
		for _, name := range []string{"redis", "bucket"} {
			for _, silent := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/silent=%v", name, n, silent), func(t *testing.T) {
					t.Parallel()
					w := s.wire(t, fmt.Sprintf("producer-%s-%d-%v", name, n, silent))
					tap := w.redis
					if name == "bucket" {
						tap = w.bucket
					}
					tap.Lose(n, silent)
					ids := map[string]bool{}
					for range 2 { // the second meets its own task
						accepted, err := w.client.Enqueue(t.Context(), hello, tasks.WithIdempotencyKey("k"))
						for range 5 {
							if err == nil {
								break
							}
							require.ErrorIs(t, err, tasks.ErrUnknownOutcome)
							accepted, err = w.client.Enqueue(t.Context(), hello, tasks.WithIdempotencyKey("k"))
						}
						require.NoError(t, err)
						ids[accepted.ID] = true
					}
					require.Len(t, ids, 1)
					stop := w.work()
					for id := range ids {
						w.settled(id)
					}
					stop()
					require.Len(t, w.ai.Requests(), 1)
				})
			}
		}
	}
}
