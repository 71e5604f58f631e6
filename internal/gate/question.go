package gate

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed common.lua
	commonLua string
	//go:embed ask.lua
	askLua string
	//go:embed sweep.lua
	sweepLua string

	askScript = redis.NewScript(commonLua + askLua)
)

// leaving is the lane of a question that takes the process' bulk callers out of line.
const leaving = "leave"

// minWait is the least time between two questions of one caller.
const minWait = time.Millisecond

// turn says when a caller may ask. The zero value allows it at once.
type turn struct {
	seq  int64     // number of the question that brought it; a message may overtake an answer
	due  time.Time // when to ask
	line bool      // a message comes; due is when to ask without one
	slot int64     // reserved for an interactive caller, microseconds of Redis' clock; 0 means none
	next int64     // the free slot after it, when it was reserved
	era  int64     // of the reservation
}

// answer is what ask.lua replies.
type answer struct {
	what        string
	wait        time.Duration
	why         string
	now         int64
	slot, next  int64 // reserved or, of go, taken
	era         int64
	interval    time.Duration
	probe, tell bool
	sweep       bool
	stands      string // the process' bulk turn after this: none, called or line
	standsFor   time.Duration
	seq         int64
	accountShut bool
}

// ask puts one question, and looks at the account in the same round trip.
func (g *Gate) ask(ctx context.Context, name string, a Request, t turn) (answer, error) {
	pace := g.pace(name, a.Kind)
	listens := 0
	if g.listening.Load() {
		if listens = 1; g.strict {
			listens = 2
		}
	}
	g.mu.Lock()
	l := g.at(name)
	known, inLine, f := l.known, flag(l.turn.line), l.figures()
	l.told = f // even if the answer gets lost
	l.asking++
	g.mu.Unlock()
	defer func() { g.mu.Lock(); l.asking--; g.mu.Unlock() }()
	args := []any{
		g.process, a.Lane, pace.PerMinute, pace.Source, t.slot, t.era,
		max(0, a.patienceOf(time.Minute/time.Duration(max(pace.PerMinute, 1)))).Microseconds(),
		f.inFlight, f.interactive, f.bulk, f.seats, f.bulkSeats, g.cfg.BulkShare, listens, inLine,
	}

	pipe := g.cfg.Redis.Pipeline()
	account := pipe.HExists(ctx, Key(Account), "closed")
	asked := pipe.EvalSha(ctx, askScript.Hash(), keys(name), args...)
	if !known {
		pipe.SAdd(ctx, index, name)
	}
	_, _ = pipe.Exec(ctx)
	if redis.HasErrorPrefix(asked.Err(), "NOSCRIPT") {
		asked = askScript.Eval(ctx, g.cfg.Redis, keys(name), args...)
	}
	reply, err := asked.Slice()
	if err == nil {
		err = account.Err()
	}
	if err != nil {
		return answer{}, fmt.Errorf("ask the gate of %s: %w", name, err)
	}
	if len(reply) != 15 {
		return answer{}, fmt.Errorf("ask the gate of %s: a reply of %d parts, not 15", name, len(reply))
	}
	number := func(i int) int64 { n, _ := reply[i].(int64); return n }
	text := func(i int) string { s, _ := reply[i].(string); return s }
	micros := func(i int) time.Duration { return time.Duration(number(i)) * time.Microsecond }
	r := answer{
		what: text(0), wait: micros(1), why: text(2), now: number(3), slot: number(4), era: number(5), interval: micros(6),
		probe: number(8) == 1, tell: number(9) == 1, next: number(10), sweep: number(11) == 1,
		stands: text(12), standsFor: micros(13), seq: number(14), accountShut: account.Val(),
	}
	g.accountShut.Store(r.accountShut)
	g.mu.Lock()
	g.noteAnswer(l, a.Lane, f, r, int(number(7)))
	g.mu.Unlock()
	return r, nil
}

// noteAnswer records an answer's facts about the process; the caller holds the lock.
func (g *Gate) noteAnswer(l *lines, lane string, f figures, r answer, others int) {
	l.known, l.interval = true, r.interval
	if lane != leaving {
		l.others[lane] = others
	}
	if r.what == "go" { // as ask.lua wrote it
		f.inFlight++
		if lane == bulk {
			f.bulk = max(0, f.bulk-1)
		} else {
			f.interactive = max(0, f.interactive-1)
		}
	}
	l.noteTold(f, r.now, r.seq)
	if lane != interactive {
		l.stand(r)
	}
}

// stand notes the turn of the process' bulk callers; the caller holds the lock.
func (l *lines) stand(r answer) {
	if r.seq <= l.turn.seq {
		return // a message that was sent later came before this answer
	}
	now := time.Now()
	switch r.stands {
	case "called":
		l.turn = turn{seq: r.seq, due: now.Add(r.standsFor)}
	case "line":
		l.turn = turn{seq: r.seq, due: now.Add(watch(r)), line: true}
	default:
		l.turn = turn{seq: r.seq}
	}
}

// watch returns when a process in line asks without being called, in case all called
// processes have died. The whole line asks about once in ten slots; the time is
// exponential, so that a process that joins late is as likely to ask as others.
func watch(r answer) time.Duration {
	every := min(max(10*r.interval, 500*time.Millisecond), 10*time.Second)
	waiting := max(1, float64(r.standsFor)/float64(max(r.interval, time.Microsecond)))
	patient := time.Duration(float64(every) * waiting * rand.ExpFloat64())
	return min(max(patient, 100*time.Millisecond), 3*r.standsFor+5*time.Second)
}
