// Package engine runs the tasks: it takes them from the queue, acquires a permit from the
// gate, calls Workers AI and commits the results. run.go holds the life of a task, and
// retry.go is the retry policy. The engine names no kind: package handlers has the work of
// each, as a Handler.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/liveness"
	"github.com/neuronmill/neuronmill/internal/maintenance"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

// Config holds the settings of a worker. The caller closes Redis, Store, AI and Gate.
type Config struct {
	Redis       redis.UniversalClient
	Store       storage.Store
	AI          *workersai.Client
	Gate        *gate.Gate
	Handlers    []Handler    // of all kinds
	Kinds       []tasks.Kind // the kinds that this worker takes; none means all
	Concurrency int          // calls at once of each kind and lane; 0 means 16
	// Poll is for a Redis without pub/sub: the interval at which an idle worker polls for
	// interactive tasks. It polls for bulk tasks at five times the interval. 0 means that
	// the worker waits for announcements, which is faster and costs less.
	Poll time.Duration
	Log  *slog.Logger // nil means the default logger
	// Hooks tell others what happens to tasks.
	Hooks Hooks
	// Jobs are further jobs of the leader, such as the sending of webhooks.
	Jobs []maintenance.Job
}

// Validate reports every missing part.
func (c Config) Validate() error {
	var errs []error
	for part, missing := range map[string]bool{
		"Redis": c.Redis == nil, "Store": c.Store == nil, "AI": c.AI == nil, "Gate": c.Gate == nil,
	} {
		if missing {
			errs = append(errs, errors.New(part+" is missing"))
		}
	}
	for _, k := range c.Kinds {
		if _, ok := tasks.SpecOf(k); !ok {
			errs = append(errs, errors.New("kind "+string(k)+" is unknown"))
		}
	}
	for _, s := range tasks.Specs {
		if !slices.ContainsFunc(c.Handlers, func(h Handler) bool { return h.Kind == s.Kind }) {
			errs = append(errs, errors.New("kind "+string(s.Kind)+" has no handler"))
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if len(c.Kinds) == 0 {
		for _, s := range tasks.Specs {
			c.Kinds = append(c.Kinds, s.Kind)
		}
	}
	if c.Concurrency == 0 {
		c.Concurrency = 16
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// slots returns how many tasks of a kind and lane run at once.
func (c Config) slots(k tasks.Kind) int {
	for _, h := range c.Handlers {
		if h.Kind == k {
			return max(h.Slots, 1) * c.Concurrency
		}
	}
	return c.Concurrency
}

// Engine does the work of all kinds and tracks the running tasks of this process.
type Engine struct {
	cfg           Config
	handlers      map[tasks.Kind]Handler
	stopping      context.Context  // ends when no new call may start
	running       sync.Map         // *job by id: the tasks that run in this process
	runningCount  atomic.Int64     // number of running tasks
	runs          sync.WaitGroup   // includes runs that the queue no longer waits for
	bucket        *objects.Breaker // cfg.Store, through which all requests to the bucket go
	loggedNewer   sync.Map         // logged errors of tasks of newer versions
	process       *liveness.Process
	late          lateReleases
	registrations registrations
	isolation     isolation
	gates         closures
	longWaits     longWaits
	coalescer     coalescer
	ends          sharedEnds
	budgets       budgets
	sharing       struct { // the last known state of the queues
		mu     sync.Mutex
		queues map[string]sharing
	}

	calls atomic.Int64 // provider calls under way
}

func newEngine(cfg Config, stopping context.Context) *Engine {
	e := &Engine{cfg: cfg.withDefaults(), stopping: stopping, isolation: newIsolation(), ends: sharedEnds{redis: cfg.Redis}}
	e.handlers = map[tasks.Kind]Handler{}
	for _, handler := range e.cfg.Handlers {
		e.handlers[handler.Kind] = handler
	}
	e.bucket = objects.NewBreaker(e.cfg.Store, objects.Options{Preflight: storage.Preflight, Log: e.cfg.Log, OnChange: e.cfg.Hooks.Bucket})
	e.cfg.Store = e.bucket
	e.budgets.caps = &budget.Caps{Redis: cfg.Redis, Store: e.bucket}
	e.process = liveness.New(cfg.Redis, e.registerClaims, e.onBeat)
	e.sharing.queues = map[string]sharing{}
	return e
}

// register registers a run in this process; it returns false when the task already runs here.
func (e *Engine) register(j *job) bool {
	if _, taken := e.running.LoadOrStore(j.task.ID, j); taken {
		return false
	}
	e.runningCount.Add(1)
	return true
}

func (e *Engine) unregister(j *job) {
	e.running.CompareAndDelete(j.task.ID, j)
	e.runningCount.Add(-1)
	if live := e.cfg.Hooks.Live; live != nil {
		live.Left(j.task.ID)
	}
}
