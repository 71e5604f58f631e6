// Package handlers does the tasks: it takes them from the queue, waits at the gate,
// asks Workers AI and keeps the results. run.go is the life of a task; each kind has
// a file of its own with the work; verdict.go says what an error leads to.
package handlers

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

// Config is what a worker needs. Redis, Store, AI and Gate are the caller's to close.
type Config struct {
	Redis       redis.UniversalClient
	Store       storage.Store
	AI          *workersai.Client
	Gate        *limit.Gate
	Kinds       []tasks.Kind // none means all
	Concurrency int          // calls at once of each kind and lane; 0 means 16
	// Poll is how often an idle worker looks for interactive tasks; 0 means 50 ms. It
	// looks for bulk and parked ones five times, for delayed ones ten times as rarely. A
	// Redis that is paid by the command is cheaper with a longer one.
	Poll  time.Duration
	Log   *slog.Logger // nil means the default logger
	Fetch *http.Client // for audio at a URL; nil means one that only reaches public addresses

	off map[guard]bool // protections that a test does without
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
	if c.Poll == 0 {
		c.Poll = 50 * time.Millisecond
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Fetch == nil {
		c.Fetch = publicClient()
	}
	return c
}

// slots is how many tasks of a kind and lane are held at once. Those that can ride
// together are many to a call.
func (c Config) slots(k tasks.Kind) int {
	if k == tasks.KindEmbedding {
		return 16 * c.Concurrency
	}
	return c.Concurrency
}

// Handlers holds the work of all kinds and what this process is at.
type Handlers struct {
	cfg      Config
	stopping context.Context // ends when no new call may start
	running  sync.Map        // *job by id: the tasks that this process is at
	held     atomic.Int64    // how many these are
	runs     sync.WaitGroup  // goes on when the queue has given up waiting for a task
	tried    atomic.Bool     // the bucket has answered a create-only write
	said     sync.Once       // that it never will
	presence *presence
	room     room
	carpool  carpool
	sharing  struct { // what was last seen of the queues
		mu     sync.Mutex
		queues map[string]sharing
	}
}

func newHandlers(cfg Config, stopping context.Context) *Handlers {
	h := &Handlers{cfg: cfg.withDefaults(), stopping: stopping, presence: newPresence(cfg.Redis), room: newRoom()}
	h.presence.onLoss, h.presence.onBeat = h.holdAgain, h.heedCancels
	h.sharing.queues = map[string]sharing{}
	return h
}

// begin claims a task for this process; false when it runs here already.
func (h *Handlers) begin(j *job) bool {
	if _, taken := h.running.LoadOrStore(j.task.ID, j); taken && h.cfg.on(guardOneRun) {
		return false
	}
	h.held.Add(1)
	return true
}

func (h *Handlers) end(j *job) {
	h.running.CompareAndDelete(j.task.ID, j)
	h.held.Add(-1)
}
