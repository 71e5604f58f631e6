// Package limit is the gate: it says when a model may be called. One gate per model
// stands in Redis and is shared by all workers: it paces them to the account's limit,
// closes for all of them at once when the API says stop, and reopens with one probe.
// ask.lua and report.lua are its rules; Gate.Pass is the way through.
package limit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// Patience is how long a caller may hold its worker slot for its turn, unless it
// asks for more: a slow model must not keep the slots of the others of its kind.
const Patience = 3 * time.Second

// Account is the gate that stands before all others: it closes when the account's
// daily allocation is spent.
const Account = "account"

// The lanes, as package tasks names them.
const (
	interactive = "interactive"
	bulk        = "bulk"
)

// Pace says how many requests a minute a model takes and where the figure comes from.
// Zero means closed.
type Pace struct {
	PerMinute int
	Source    string // "catalogue" or "settings"
}

// Config of a Gate.
type Config struct {
	Redis redis.UniversalClient // the caller's to close
	// Pace of a model of a kind.
	Pace func(model, kind string) Pace
	// Total is the ceiling over all models of a kind; 0 means none. A nil func means
	// there are none.
	Total func(kind string) int
	// BulkShare is the part of the slots that bulk gets although interactive callers
	// would take them all; 0 lets bulk wait, 0.5 is the most.
	BulkShare float64
	Log       *slog.Logger // nil means the default logger
}

// Gate is this process' way to the gates of the fleet. It is safe for concurrent use.
// Run must run beside it where calls may take longer than a few seconds.
type Gate struct {
	cfg     Config
	process string

	mu    sync.Mutex
	lines map[string]*lines
}

// lines is what this process has at one gate.
type lines struct {
	known    bool // the index of gates has it
	inFlight int
	waiting  map[string]int           // by lane
	seats    map[string]int           // how many may wait, by lane; 0 means that it was not said
	others   map[string]int           // waiting in other processes, as of the last answer
	interval time.Duration            // of the pace, as of the last answer
	turn     map[string]chan struct{} // who asks for bulk: one at a time
	reported bool                     // Redis holds figures of ours that are not zero
}

// New makes a gate; there is nothing to close.
func New(cfg Config) *Gate {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.BulkShare = min(max(cfg.BulkShare, 0), 0.5)
	return &Gate{cfg: cfg, process: uuid.NewString()[:13], lines: map[string]*lines{}}
}

// Ask is one question: may this model be called now?
type Ask struct {
	Model string
	Kind  string
	Lane  string // "interactive" (also when empty) or "bulk"
	// Patience is how long the turn may be waited for in place; 0 means Patience, or
	// one and a half turns of a slow pace.
	Patience time.Duration
	// Seats is how many callers of this lane and model may wait in this process; 0
	// means as many as Patience allows.
	Seats int
}

// Paced is the reason of a PauseError when nothing is wrong but the pace.
const Paced = "paced"

// PauseError says: leave the slot to others and come again when the gate has room. It
// is never counted as an attempt.
type PauseError struct {
	Model  string
	Until  time.Time // the earliest time at which that may be
	Reason string    // Paced, or why it is closed
}

func (e *PauseError) Error() string {
	return fmt.Sprintf("gate of %s: %s until %s", e.Model, e.Reason, e.Until.UTC().Format(time.RFC3339))
}

// Key is the hash of a gate in Redis. Its name is its slot, so that all there is of a
// gate stands on one node of a cluster.
func Key(name string) string { return "neuronmill:gate:{" + name + "}" }

// index is the set of all gates there are.
const index = "neuronmill:gates"

// at gives this process' lines at a gate; the caller holds the lock.
func (g *Gate) at(name string) *lines {
	l := g.lines[name]
	if l == nil {
		l = &lines{
			waiting: map[string]int{}, seats: map[string]int{}, others: map[string]int{},
			turn: map[string]chan struct{}{interactive: make(chan struct{}, 1), bulk: make(chan struct{}, 1)},
		}
		g.lines[name] = l
	}
	return l
}

// beat is how often a process tells the gates that its calls still run.
const beat = 5 * time.Second

// Run keeps what this process has at the gates up to date until ctx ends.
func (g *Gate) Run(ctx context.Context) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			return g.leave(ctx)
		case <-tick.C:
			g.tell(ctx)
		}
	}
}

// present writes what a process has at a gate.
var present = redis.NewScript(`
local clock = redis.call("TIME")
redis.call("HSET", KEYS[1], "p:" .. ARGV[1], clock[1] .. string.format("%06d", clock[2]) .. " " .. table.concat(ARGV, " ", 2))
return 1`)

// figures are what a process has at a gate.
type figures struct{ inFlight, interactive, bulk, seats, bulkSeats int }

func (l *lines) figures() figures {
	return figures{l.inFlight, l.waiting[interactive], l.waiting[bulk], l.seats[interactive], l.seats[bulk]}
}

func (f figures) idle() bool { return f.inFlight+f.interactive+f.bulk == 0 }

func (g *Gate) tell(ctx context.Context) {
	at := map[string]figures{}
	g.mu.Lock()
	for name, l := range g.lines {
		f := l.figures()
		if !f.idle() || l.reported {
			at[name] = f
		}
		l.reported = !f.idle()
	}
	g.mu.Unlock()
	for name, f := range at {
		if err := present.Run(ctx, g.cfg.Redis, []string{Key(name)}, g.process, f.inFlight, f.interactive, f.bulk, f.seats, f.bulkSeats).Err(); err != nil {
			g.cfg.Log.Debug("gate not told of running calls", "gate", name, "error", err)
			return
		}
	}
}

// leave takes what this process has out of the gates.
func (g *Gate) leave(ctx context.Context) error {
	pipe := g.cfg.Redis.Pipeline()
	g.mu.Lock()
	for name := range g.lines {
		pipe.HDel(ctx, Key(name), "p:"+g.process)
	}
	g.mu.Unlock()
	if _, err := pipe.Exec(ctx); err != nil {
		g.cfg.Log.Debug("gates not left", "error", err) // they forget a silent process by themselves
	}
	return nil
}
