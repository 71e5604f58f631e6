package limit

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed ask.lua
	askLua string
	ask    = redis.NewScript(askLua)
)

// Place is the right to make one call. Done gives it back.
type Place struct {
	gate  *Gate
	model string
	got   []granted
}

// granted is one gate that let the call through.
type granted struct {
	name  string
	at    int64 // microseconds of Redis' clock
	probe bool
	tell  bool // the gate wants to know of success too
}

// Pass returns a Place when a call may be sent now. When the turn is further away than
// is worth holding a worker slot for, it returns *PauseError.
func (g *Gate) Pass(ctx context.Context, a Ask) (*Place, error) {
	if a.Lane != bulk {
		a.Lane = interactive
	}
	leave, err := g.join(a)
	if err != nil {
		return nil, err
	}
	defer leave()
	if a.Lane == bulk {
		turn := g.lineOf(a.Model).turn[bulk]
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p := &Place{gate: g, model: a.Model}
	names := []string{a.Model}
	if g.cfg.Total != nil && g.cfg.Total(a.Kind) > 0 {
		names = append(names, TotalOf(a.Kind))
	}
	for _, name := range names {
		if err := g.passOne(ctx, name, a, p); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	for _, name := range names {
		g.at(name).inFlight++
	}
	g.mu.Unlock()
	return p, nil
}

// TotalOf names the gate over all models of a kind.
func TotalOf(kind string) string { return kind + ":total" }

func (g *Gate) lineOf(name string) *lines {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at(name)
}

// join enters the line of a lane, unless it is too long already.
func (g *Gate) join(a Ask) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.at(a.Model)
	l.seats[a.Lane] = a.Seats
	if n := l.waiting[a.Lane]; n > 0 {
		ahead := time.Duration(n+l.others[a.Lane]) * l.interval
		if a.Seats > 0 && n >= a.Seats || a.Patience == 0 && ahead > patience(l.interval) {
			return nil, &PauseError{Model: a.Model, Until: time.Now().Add(ahead), Reason: Paced}
		}
	}
	l.waiting[a.Lane]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		l.waiting[a.Lane]--
	}, nil
}

// patience is how long is waited in place at a pace.
func patience(interval time.Duration) time.Duration {
	return max(Patience, min(3*interval/2, 10*time.Second))
}

// passOne asks one gate until it lets the call through or sends it away.
func (g *Gate) passOne(ctx context.Context, name string, a Ask, p *Place) error {
	var (
		start  = time.Now()
		ticket int64
	)
	for {
		r, err := g.ask(ctx, name, a, ticket)
		if err != nil {
			return err
		}
		if r.accountShut && name != Account {
			if err := g.passOne(ctx, Account, a, p); err != nil {
				return err
			}
		}
		limit := a.Patience
		if limit == 0 {
			limit = patience(r.interval)
		}
		switch r.what {
		case "go":
			p.got = append(p.got, granted{name, r.now, r.probe, r.tell})
			return nil
		case "wait":
			ticket = r.ticket
		case "pause":
			if a.Patience == 0 {
				return &PauseError{Model: name, Until: time.Now().Add(r.wait), Reason: r.why}
			}
			r.wait = min(r.wait, 5*time.Second) // a person may open it sooner
			ticket = 0
		default: // closed or narrow
			if time.Since(start)+r.wait > limit {
				return &PauseError{Model: name, Until: time.Now().Add(r.wait), Reason: r.why}
			}
			ticket = 0
		}
		if err := sleep(ctx, r.wait); err != nil {
			return err
		}
	}
}

// answer is what ask.lua replies.
type answer struct {
	what        string
	wait        time.Duration
	why         string
	now         int64
	ticket      int64
	interval    time.Duration
	probe, tell bool
	accountShut bool
}

// ask puts one question, and looks at the account in the same round trip.
func (g *Gate) ask(ctx context.Context, name string, a Ask, ticket int64) (answer, error) {
	pace := g.pace(name, a.Kind)
	patient := a.Patience
	if patient == 0 {
		patient = patience(time.Minute / time.Duration(max(pace.PerMinute, 1)))
	}
	g.mu.Lock()
	l := g.at(name)
	known := l.known
	f := l.figures()
	args := []any{
		g.process, a.Lane, pace.PerMinute, pace.Source, ticket, patient.Microseconds(),
		f.inFlight, f.interactive, f.bulk, g.cfg.BulkShare, f.seats, f.bulkSeats,
	}
	l.reported = true
	g.mu.Unlock()

	keys := []string{Key(name)}
	pipe := g.cfg.Redis.Pipeline()
	account := pipe.HExists(ctx, Key(Account), "closed")
	asked := pipe.EvalSha(ctx, ask.Hash(), keys, args...)
	if !known {
		pipe.SAdd(ctx, index, name)
	}
	_, _ = pipe.Exec(ctx)
	if redis.HasErrorPrefix(asked.Err(), "NOSCRIPT") {
		asked = ask.Eval(ctx, g.cfg.Redis, keys, args...)
	}
	reply, err := asked.Slice()
	if err == nil {
		err = account.Err()
	}
	if err != nil || len(reply) != 9 {
		return answer{}, fmt.Errorf("ask the gate of %s: %w", name, err)
	}
	number := func(i int) int64 { n, _ := reply[i].(int64); return n }
	text := func(i int) string { s, _ := reply[i].(string); return s }
	r := answer{
		what: text(0), wait: time.Duration(number(1)) * time.Microsecond, why: text(2), now: number(3), ticket: number(4),
		interval: time.Duration(number(5)) * time.Microsecond, probe: number(7) == 1, tell: number(8) == 1,
		accountShut: account.Val(),
	}
	g.mu.Lock()
	l.known, l.interval, l.others[a.Lane] = true, r.interval, int(number(6))
	g.mu.Unlock()
	return r, nil
}

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

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
