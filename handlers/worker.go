package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// Worker takes tasks from Redis until it is told to stop.
type Worker struct {
	cfg Config
}

// NewWorker makes a worker; Run starts it.
func NewWorker(cfg Config) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return &Worker{cfg: cfg.withDefaults()}, nil
}

// Run works until ctx ends, then starts no new call, lets the running ones finish and
// be stored, and returns nil. One server per kind and lane: no other kind and no bulk
// task can take the slots of interactive work.
func (w *Worker) Run(ctx context.Context) error {
	h := newHandlers(w.cfg, ctx)
	var servers []*asynq.Server
	defer func() {
		var g errgroup.Group
		for _, s := range servers {
			g.Go(func() error { s.Shutdown(); return nil })
		}
		_ = g.Wait()
		h.runs.Wait() // a server does not wait for a task whose lease it lost
	}()
	for _, k := range w.cfg.Kinds {
		for _, l := range []tasks.Lane{tasks.Interactive, tasks.Bulk} {
			s := asynq.NewServerFromRedisClient(w.cfg.Redis, w.serverConfig(k, l))
			if err := s.Start(h); err != nil {
				return fmt.Errorf("start the server of %s: %w", tasks.Queue(k, l), err)
			}
			servers = append(servers, s)
		}
	}
	me := uuid.NewString()
	return serve(ctx, w.cfg.Gate,
		&reaper{cfg: w.cfg, lock: lock{w.cfg.Redis, "neuronmill:reaper", me, 3 * leaseEvery}},
		&attendant{cfg: w.cfg, lock: lock{w.cfg.Redis, "neuronmill:attendant", me, 40 * w.cfg.Poll}})
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
		Logger:                   asynqLog{w.cfg.Log},
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

// asynqLog lets the queue speak through our logger.
type asynqLog struct{ log *slog.Logger }

func (l asynqLog) Debug(args ...any) { l.log.Debug(clean(fmt.Sprint(args...))) }
func (l asynqLog) Info(args ...any)  { l.log.Debug(clean(fmt.Sprint(args...))) }
func (l asynqLog) Warn(args ...any)  { l.log.Warn(clean(fmt.Sprint(args...))) }
func (l asynqLog) Error(args ...any) { l.log.Error(clean(fmt.Sprint(args...))) }
func (l asynqLog) Fatal(args ...any) {
	l.log.Error(clean(fmt.Sprint(args...)))
	os.Exit(1)
}
