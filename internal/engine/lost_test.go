package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/s3store"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// wire is a whole system over real connections. The replies of Redis and of the bucket
// can be lost. Each wire has its own database and prefix, so that many run on the same
// servers.
type wire struct {
	t             *testing.T
	redis, bucket *realtest.Tap
	direct        *redis.Client // bypasses the tap
	client        *tasks.Client
	ai            *workersaitest.Server
	close         func()
	cfg           engine.Config
}

// servers are shared by the wires of a test.
type servers struct {
	redis    *realtest.Server
	bucket   string // address of the bucket
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
	w.cfg = engine.Config{
		Handlers: handlers.All(nil),
		Redis:    tapped, Store: store, AI: w.ai.Client(), Kinds: []tasks.Kind{tasks.KindTranslation}, Concurrency: 1,
		Log: slog.New(slog.DiscardHandler),
	}
	w.cfg.Gate = gate.New(gate.Config{Redis: tapped, Pace: catalogued, Log: w.cfg.Log})
	return w
}

// work runs a worker until the returned func is called.
func (w *wire) work() (stop func() error, err error) {
	worker, err := engine.NewWorker(w.cfg)
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

// settled waits until a task has its result and no other trace of it is left. It expires
// the lease of a task that a lost reply left without an owner.
func (w *wire) settled(id string) error {
	queue := "asynq:{" + tasks.Queue(tasks.KindTranslation, tasks.Interactive) + "}:"
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(20 * time.Millisecond) {
		left, err := w.direct.Exists(w.t.Context(), queue+"t:"+id).Result()
		r, missing := w.client.Result(w.t.Context(), id)
		_, pending := w.cfg.Store.Head(w.t.Context(), objects.PendingKey("default", id))
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

// lives runs a task and loses the n-th reply of a server during the worker's life. It
// returns how many replies there were.
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

// paid compares the number of calls with the allowed number.
func (w *wire) paid(want int) error {
	if calls := len(w.ai.Requests()); calls != want {
		return fmt.Errorf("%d calls were paid, not %d", calls, want)
	}
	return nil
}

// ways are the two ways to lose a reply: the connection breaks, or it stays open and
// silent.
var ways = map[string]bool{"broken": false, "mute": true}

// TestAnyReplyToAWorkerMayGetLost loses each reply of a worker's life once. The command
// ran, but the worker does not know it. No loss costs a call.
func TestAnyReplyToAWorkerMayGetLost(t *testing.T) {
	realtest.Long(t)
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

// TestAnyReplyToAProducerMayGetLost does the same during Enqueue. A producer with a key
// repeats the request until the outcome is known, and gets one task.
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

// acceptTwice enqueues the same task twice with one key, and runs it to its end.
func (w *wire) acceptTwice() error {
	ids := map[string]bool{}
	for range 2 {
		var accepted tasks.Receipt
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

// each tests the loss of every reply in both ways. Many run in parallel, because they
// mostly wait.
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
