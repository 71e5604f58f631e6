package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
	"golang.org/x/sync/errgroup"
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
	close         func()
	cfg           handlers.Config
}

// servers are what the wires of a test share.
type servers struct {
	redis    *realtest.Server
	bucket   string // its address
	database chan int
}

func newServers(t *testing.T) *servers {
	s := &servers{realtest.Redis(t), realtest.S3Server(t).Addr, make(chan int, 16)}
	for i := range cap(s.database) {
		s.database <- i
	}
	return s
}

func (s *servers) wire(t *testing.T, prefix string) *wire {
	w := &wire{t: t, redis: realtest.NewTap(t, s.redis.Addr), bucket: realtest.NewTap(t, s.bucket)}
	database := <-s.database
	w.direct = redis.NewClient(&redis.Options{Addr: s.redis.Addr, DB: database})
	require.NoError(t, w.direct.FlushDB(t.Context()).Err())
	tapped := redis.NewClient(&redis.Options{Addr: w.redis.Addr, DB: database, ReadTimeout: 300 * time.Millisecond})
	w.close = func() {
		tapped.Close()
		w.direct.Close()
		s.database <- database
	}
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
	w.cfg = w.cfg.Without(switchedOff()...)
	return w
}

// work does tasks until the returned func is called.
func (w *wire) work() (stop func() error, err error) {
	worker, err := handlers.NewWorker(w.cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}, nil
}

var hello = tasks.Translation{Text: "hello", TargetLang: "es"}

// settled waits until a task has its result and nothing else is left of it. A task that
// a lost reply left without an owner gets its lease ended early.
func (w *wire) settled(id string) error {
	queue := "asynq:{" + tasks.Queue(tasks.KindTranslation, tasks.Interactive) + "}:"
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(20 * time.Millisecond) {
		left, err := w.direct.Exists(w.t.Context(), queue+"t:"+id).Result()
		r, missing := w.client.Result(w.t.Context(), id)
		_, pending := w.cfg.Store.Head(w.t.Context(), tasks.PendingKey("default", id))
		if err == nil && left == 0 && missing == nil && errors.Is(pending, storage.ErrNotFound) {
			if r.Status != tasks.Completed {
				return fmt.Errorf("it failed: %w", r.Error)
			}
			return nil
		}
		if time.Since(begun) > 3*time.Second {
			w.direct.ZAddXX(w.t.Context(), queue+"lease", redis.Z{Score: 1, Member: id})
		}
	}
	return errors.New("the task does not end")
}

// lives does a task with the n-th reply of a server lost while the worker lives. It
// gives how many replies there were.
func (w *wire) lives(tap *realtest.Tap, n int, silent bool) (replies int, err error) {
	accepted, err := w.client.Enqueue(w.t.Context(), hello)
	if err != nil {
		return 0, err
	}
	tap.Lose(n, silent)
	stop, err := w.work()
	if err != nil {
		return 0, err
	}
	err = w.settled(accepted.ID)
	replies = tap.Replies()
	return replies, errors.Join(err, stop(), w.paid(1))
}

// paid holds the calls against what they may be.
func (w *wire) paid(want int) error {
	if calls := len(w.ai.Requests()); calls != want {
		return fmt.Errorf("%d calls were paid, not %d", calls, want)
	}
	return nil
}

// ways are how a reply gets lost: the connection breaks, or it stays open and mute.
var ways = map[string]bool{"broken": false, "mute": true}

// TestAnyReplyToAWorkerMayGetLost loses each reply of a worker's life once: the command
// ran, the worker does not know. It costs no call.
func TestAnyReplyToAWorkerMayGetLost(t *testing.T) {
	t.Parallel()
	s := newServers(t)
	taps := map[string]func(*wire) *realtest.Tap{
		"redis":  func(w *wire) *realtest.Tap { return w.redis },
		"bucket": func(w *wire) *realtest.Tap { return w.bucket },
	}
	for name, of := range taps {
		w := s.wire(t, name)
		all, err := w.lives(of(w), 0, false)
		w.close()
		require.NoError(t, err)
		t.Logf("%s answers %d times in the life of a task", name, all)
		s.each(t, all, name, func(w *wire, n int, mute bool) error {
			_, err := w.lives(of(w), n, mute)
			return err
		})
	}
}

// TestAnyReplyToAProducerMayGetLost does the same where a task is accepted. Whoever has
// a key asks again until it is settled, and gets one task.
func TestAnyReplyToAProducerMayGetLost(t *testing.T) {
	t.Parallel()
	s := newServers(t)
	s.each(t, 12, "producer-redis", func(w *wire, n int, mute bool) error {
		w.redis.Lose(n, mute)
		return w.acceptTwice()
	})
	s.each(t, 12, "producer-bucket", func(w *wire, n int, mute bool) error {
		w.bucket.Lose(n, mute)
		return w.acceptTwice()
	})
}

// acceptTwice enqueues the same task twice with one key, and has it done.
func (w *wire) acceptTwice() error {
	ids := map[string]bool{}
	for range 2 {
		var accepted tasks.Accepted
		err := tasks.ErrUnknownOutcome
		for range 5 {
			if !errors.Is(err, tasks.ErrUnknownOutcome) {
				break
			}
			accepted, err = w.client.Enqueue(w.t.Context(), hello, tasks.WithIdempotencyKey("k"))
		}
		if err != nil {
			return err
		}
		ids[accepted.ID] = true
	}
	if len(ids) != 1 {
		return fmt.Errorf("one key gave the tasks %v", ids)
	}
	stop, err := w.work()
	if err != nil {
		return err
	}
	for id := range ids {
		err = w.settled(id)
	}
	return errors.Join(err, stop(), w.paid(1))
}

// each tries all replies in all ways, many at a time: they mostly wait.
func (s *servers) each(t *testing.T, replies int, name string, try func(w *wire, n int, mute bool) error) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(cap(s.database) - 1)
	var mu sync.Mutex
	var errs []error
	for n := 1; n <= replies; n++ {
		for way, mute := range ways {
			g.Go(func() error {
				w := s.wire(t, fmt.Sprintf("%s-%d-%s", name, n, way))
				defer w.close()
				if err := try(w, n, mute); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, fmt.Errorf("%s, reply %d, %s: %w", name, n, way, err))
				}
				return nil
			})
		}
	}
	_ = g.Wait()
	require.NoError(t, errors.Join(errs...))
}
