package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// Worker takes tasks from Redis until it is told to stop.
type Worker struct {
	cfg   Config
	quiet *damper
}

// NewWorker makes a worker; Run starts it. Each adds a hook to the Redis client.
func NewWorker(cfg Config) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	cfg = cfg.withDefaults()
	w := &Worker{cfg, &damper{log: cfg.Log, stopping: context.Background()}}
	if cfg.on(guardDamp) {
		cfg.Redis.AddHook(w.quiet)
	}
	return w, nil
}

// Run works until ctx ends, then starts no new call, lets the running ones finish and
// be stored, and returns nil. It does not start on a bucket that takes no create-only
// writes, and says so with errors.ErrUnsupported. One server per kind and lane: no
// other kind and no bulk task can take the slots of interactive work.
func (w *Worker) Run(ctx context.Context) error {
	h := newHandlers(w.cfg, ctx)
	if err := h.storableAtAll(ctx); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	w.quiet.stopWith(ctx)
	gone, err := h.present(ctx)
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	defer gone()
	var servers []*asynq.Server
	defer func() { h.shutDown(servers) }()
	for _, k := range w.cfg.Kinds {
		for _, l := range []tasks.Lane{tasks.Interactive, tasks.Bulk} {
			s := asynq.NewServerFromRedisClient(w.cfg.Redis, w.serverConfig(k, l))
			if err := s.Start(h); err != nil {
				return fmt.Errorf("start the server of %s: %w", tasks.Queue(k, l), err)
			}
			servers = append(servers, s)
		}
	}
	me := h.presence.me
	return serve(ctx, w.cfg.Gate,
		&reaper{h, lock{w.cfg.Redis, "neuronmill:reaper", me, 3 * leaseEvery}},
		&sweeper{h, lock{w.cfg.Redis, "neuronmill:sweeper", me, 6 * sweepTick}},
		&attendant{cfg: w.cfg, lock: lock{w.cfg.Redis, "neuronmill:attendant", me, 40 * w.cfg.Poll}})
}

// Service is a long-running part. Run ends soon after ctx does and leaves nothing
// running.
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

// present shows the fleet that this process lives until gone is called, which is when
// its last task has ended.
func (h *Handlers) present(ctx context.Context) (gone func(), err error) {
	if err := h.presence.lineage.watch(ctx, h.cfg.Redis); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.presence.beat(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.presence.Run(ctx)
	}()
	return func() { cancel(); <-done }, nil
}

func (w *Worker) serverConfig(k tasks.Kind, l tasks.Lane) asynq.Config {
	check := w.cfg.Poll
	if l == tasks.Bulk {
		check *= 5
	}
	spec, _ := tasks.SpecOf(k)
	return asynq.Config{
		Concurrency:              w.cfg.slots(k),
		Queues:                   map[string]int{tasks.Queue(k, l): 1},
		TaskCheckInterval:        check,
		DelayedTaskCheckInterval: 10 * w.cfg.Poll,
		ShutdownTimeout:          spec.Timeout + grace + 10*time.Second,
		RetryDelayFunc:           retryDelay,
		IsFailure:                counts,
		Logger:                   asynqLog{w.cfg.Log, w.quiet},
		LogLevel:                 asynq.WarnLevel,
	}
}

// retryDelay is the time a handback asks for; a task whose worker died comes at once.
func retryDelay(_ int, err error, _ *asynq.Task) time.Duration {
	var back *handback
	switch {
	case errors.As(err, &back):
		return back.after
	case errors.Is(err, asynq.ErrLeaseExpired):
		return 0
	}
	return backoff(3)
}

// counts is always false: the counters that decide are ours, and the queue's own must
// never archive a task by itself.
func counts(error) bool { return false }

// asynqLog lets the queue speak through our logger. What it says while Redis refuses
// has been said once already.
type asynqLog struct {
	log   *slog.Logger
	quiet *damper
}

func (l asynqLog) say(level slog.Level, args []any) {
	if l.quiet.sick() {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, clean(fmt.Sprint(args...)))
}

func (l asynqLog) Debug(args ...any) { l.say(slog.LevelDebug, args) }
func (l asynqLog) Info(args ...any)  { l.say(slog.LevelDebug, args) }
func (l asynqLog) Warn(args ...any)  { l.say(slog.LevelWarn, args) }
func (l asynqLog) Error(args ...any) { l.say(slog.LevelError, args) }
func (l asynqLog) Fatal(args ...any) {
	l.say(slog.LevelError, args)
	os.Exit(1)
}
