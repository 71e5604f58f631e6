// Package gate is a distributed rate limiter (GCRA) and circuit breaker for
// each model, shared by all workers through Redis. It paces calls to the account's limit,
// closes for all workers at once when the API says stop, and reopens with one probe.
//
// Interactive callers reserve the next free slot. Processes with bulk callers stand in
// line, and only the first few are told when to ask, so a call costs the same number of
// Redis commands however many processes wait. ask.lua, report.lua and sweep.lua are the
// rules and share common.lua; Gate.Acquire asks them.
package gate

import (
	"cmp"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
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
	// Pace of a model of a kind; an empty kind means the model's own.
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
// Run must run beside it where calls may take longer than a few seconds, and where many
// processes wait for the same gate.
type Gate struct {
	cfg     Config
	process string
	strict  bool // all processes publish to the node that this one listens to

	listening   atomic.Bool // messages of Redis reach this process
	accountShut atomic.Bool // as of the last question

	mu    sync.Mutex
	lines map[string]*lines
}

// lines holds the callers and calls of this process at one gate.
type lines struct {
	known    bool // the index of gates has it
	inFlight int
	waiting  map[string]int // by lane
	seats    map[string]int // how many may wait, by lane; 0 means that it was not said
	others   map[string]int // waiting in other processes, as of the last answer
	interval time.Duration  // of the pace, as of the last answer
	told     figures        // what Redis has of this process
	toldAt   time.Time      // when it was told that; zero means never
	redisAt  int64          // microseconds of Redis' clock at toldAt
	toldSeq  int64          // number of the question that told it
	asking   int            // questions under way
	doubt    bool           // two were told at once: Redis may have the older figures

	asker chan struct{} // held by the one bulk caller that asks for all of this process
	turn  turn          // of the bulk callers
	// woken is closed when the turn of bulk changed, news when the gate did, and shut when
	// the asker was told that it is closed for longer than others have patience for.
	woken, news, shut chan struct{}
	pause             *RetryLaterError // the last refusal; nil after a later answer
}

// New makes a gate; there is nothing to close.
func New(cfg Config) *Gate {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.BulkShare = min(max(cfg.BulkShare, 0), 0.5)
	_, single := cfg.Redis.(*redis.Client)
	return &Gate{cfg: cfg, process: uuid.NewString()[:13], strict: single, lines: map[string]*lines{}}
}

// Request is one question: may this model be called now?
type Request struct {
	Model string
	Kind  string
	Lane  string // "interactive" (also when empty) or "bulk"
	// Patience is how long the turn may be waited for in place; 0 means Patience, or
	// one and a half turns of a slow pace, and a bulk caller whose lane moves waits as
	// long as ctx lets it. A negative one is answered with a RetryLaterError at once.
	Patience time.Duration
	// MaxWaiting is how many callers of this lane and model may wait in this process; 0
	// means as many as Patience allows.
	MaxWaiting int
}

// Paced is the reason of a RetryLaterError when nothing is wrong but the pace.
const Paced = "paced"

// RetryLaterError asks the caller to leave its worker slot and to retry when the gate has
// room. It never counts as an attempt.
type RetryLaterError struct {
	Model  string
	Until  time.Time // the earliest time at which that may be
	Reason string    // Paced, or why it is closed
}

func (e *RetryLaterError) Error() string {
	return fmt.Sprintf("gate of %s: %s until %s", e.Model, e.Reason, e.Until.UTC().Format(time.RFC3339))
}

// Key is the hash of a gate in Redis. Its name is its slot, so that all there is of a
// gate stands on one node of a cluster.
func Key(name string) string { return "neuronmill:gate:{" + name + "}" }

// lineKey is the sorted set of the processes that stand in line at a gate.
func lineKey(name string) string { return Key(name) + ":line" }

func keys(name string) []string { return []string{Key(name), lineKey(name)} }

// index is the set of all gates there are.
const index = "neuronmill:gates"

// at gives this process' lines at a gate; the caller holds the lock.
func (g *Gate) at(name string) *lines {
	l := g.lines[name]
	if l == nil {
		l = &lines{
			waiting: map[string]int{}, seats: map[string]int{}, others: map[string]int{},
			asker: make(chan struct{}, 1), woken: make(chan struct{}), news: make(chan struct{}), shut: make(chan struct{}),
		}
		g.lines[name] = l
	}
	return l
}

func (g *Gate) lineOf(name string) *lines {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at(name)
}

// TotalOf names the gate over all models of a kind.
func TotalOf(kind string) string { return kind + ":total" }

// pace is the figure of a gate as this process' settings have it.
func (g *Gate) pace(name, kind string) Pace {
	switch name {
	case Account:
		return Pace{PerMinute: 1_000_000_000, Source: "none"}
	case TotalOf(kind):
		return Pace{PerMinute: g.cfg.Total(kind), Source: "settings"}
	}
	return g.cfg.Pace(name, kind)
}

// patience is how long is waited in place at a pace.
func patience(interval time.Duration) time.Duration {
	return max(Patience, min(3*interval/2, 10*time.Second))
}

// patienceOf is how long a caller waits in place at a gate of this pace.
func (a Request) patienceOf(interval time.Duration) time.Duration {
	return cmp.Or(a.Patience, patience(interval))
}
