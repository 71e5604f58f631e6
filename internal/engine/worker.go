package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// Worker runs tasks from Redis until it is told to stop.
type Worker struct {
	cfg     Config
	breaker *queue.Breaker
}

// NewWorker returns a worker; Run starts it. Both add hooks to the Redis client.
func NewWorker(cfg Config) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	cfg = cfg.withDefaults()
	w := &Worker{cfg, queue.NewBreaker(cfg.Log)}
	cfg.Redis.AddHook(w.breaker)
	return w, nil
}

// Run runs tasks until ctx ends. Then it starts no new call, waits until the running ones
// have finished and are stored, and returns nil. On a bucket without create-only writes it
// does not start, and its error wraps errors.ErrUnsupported.
func (w *Worker) Run(ctx context.Context) error {
	e := newEngine(w.cfg, ctx)
	if err := e.checkBucket(ctx); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	w.breaker.StopWith(ctx)
	defer e.logStop(ctx)()
	gone, err := e.startHeartbeats(ctx)
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	defer gone()
	server := queue.NewServer(queue.ServerConfig{
		Redis: w.cfg.Redis, Breaker: w.breaker, Slots: w.slots(), Poll: w.cfg.Poll, ShutdownTimeout: w.longest(), Log: w.cfg.Log,
	})
	if err := server.Start(e.ProcessTask); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	defer e.ends.close() // after the last task, unless shutDown leaves one behind
	defer e.shutDown(server)
	return serve(ctx, server, w.cfg.Gate, e.housekeeping())
}

// slots returns the slots of each kind and lane. Each has its own, so that other kinds and
// bulk tasks cannot take those of interactive work.
func (w *Worker) slots() []queue.Slots {
	var slots []queue.Slots
	for _, k := range w.cfg.Kinds {
		for _, l := range []tasks.Lane{tasks.Interactive, tasks.Bulk} {
			slots = append(slots, queue.Slots{Queue: tasks.Queue(k, l), Bulk: l == tasks.Bulk, Slots: w.cfg.slots(k)})
		}
	}
	return slots
}

// longest returns how long a stopping worker waits for the tasks of its slowest kind.
func (w *Worker) longest() time.Duration {
	longest := time.Duration(0)
	for _, k := range w.cfg.Kinds {
		spec, _ := tasks.SpecOf(k)
		longest = max(longest, spec.Timeout+grace+10*time.Second)
	}
	return longest
}

// Service is a long-running part. Run returns soon after ctx ends and leaves no goroutine
// behind.
type Service interface {
	Run(ctx context.Context) error
}

// serve runs all services; the first to fail stops the others.
func serve(ctx context.Context, services ...Service) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range services {
		g.Go(func() error { return s.Run(ctx) })
	}
	return g.Wait()
}

// startHeartbeats sends this process' heartbeats until gone is called, after its last task has
// ended.
func (e *Engine) startHeartbeats(ctx context.Context) (gone func(), err error) {
	if err := e.process.Start(ctx); err != nil {
		return nil, err
	}
	e.refreshCaps(ctx)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.process.Run(ctx)
	}()
	return func() { cancel(); <-done }, nil
}
