package gate

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// Permit is the right to make one call. Release gives it back.
type Permit struct {
	gate  *Gate
	model string
	got   []granted
}

// granted is one gate that let the call through. Times are microseconds of Redis' clock.
type granted struct {
	name  string
	at    int64 // 0: not yet, the slot is only reserved
	slot  int64
	next  int64 // the free slot after it, when this one was taken
	probe bool
	tell  bool // the gate wants to know of success too
}

func (p *Permit) passed(name string) bool {
	return slices.ContainsFunc(p.got, func(got granted) bool { return got.name == name })
}

// recheck is that time at a closed gate, where no message can reach the caller: a closed gate may be
// opened before its time.
const recheck = 5 * time.Second

// Acquire returns a Permit when a call may be sent now. When the turn is further away than
// is worth holding a worker slot for, it returns *RetryLaterError, whose time is in the
// future.
func (g *Gate) Acquire(ctx context.Context, a Request) (*Permit, error) {
	if a.Lane != bulk {
		a.Lane = interactive
	}
	if a.Patience < 0 {
		return nil, &RetryLaterError{Model: a.Model, Until: time.Now().Add(recheck), Reason: Paced}
	}
	if err := g.enter(a); err != nil {
		return nil, err
	}
	p := &Permit{gate: g, model: a.Model}
	names := []string{a.Model}
	if g.cfg.Total != nil && g.cfg.Total(a.Kind) > 0 {
		names = append(names, TotalOf(a.Kind))
	}
	if err := g.passAll(ctx, names, a, p); err != nil {
		for _, got := range p.got {
			g.giveBack(ctx, got)
		}
		return nil, err
	}
	g.mu.Lock()
	for _, name := range names {
		g.at(name).inFlight++
	}
	g.mu.Unlock()
	return p, nil
}

// enter counts a caller as waiting for its model, unless too many wait already.
func (g *Gate) enter(a Request) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.at(a.Model)
	l.seats[a.Lane] = a.MaxWaiting
	if n := l.waiting[a.Lane]; n > 0 {
		ahead := time.Duration(n+l.others[a.Lane]) * l.interval
		if a.MaxWaiting > 0 && n >= a.MaxWaiting || a.Patience == 0 && ahead > patience(l.interval) {
			return &RetryLaterError{Model: a.Model, Until: time.Now().Add(max(ahead, minWait)), Reason: Paced}
		}
	}
	l.waiting[a.Lane]++
	return nil
}

// passAll passes the gates one after the other. Of the bulk callers of a process one asks
// for all, until it is through all gates.
func (g *Gate) passAll(ctx context.Context, names []string, a Request, p *Permit) error {
	for i, name := range names {
		l := g.lineOf(name)
		if i > 0 { // enter has counted it at the first
			g.mu.Lock()
			l.waiting[a.Lane]++
			g.mu.Unlock()
		}
		defer g.quit(ctx, name, l, a)
		if a.Lane == bulk {
			if err := g.becomeAsker(ctx, l, a); err != nil {
				return err
			}
			defer func() { <-l.asker }()
		}
		if g.accountShut.Load() && !p.passed(Account) {
			if err := g.passOne(ctx, Account, a, p); err != nil {
				return err
			}
		}
		if err := g.passOne(ctx, name, a, p); err != nil {
			return err
		}
	}
	return nil
}

// becomeAsker waits until no other caller asks for bulk. It does not wait behind a
// patient one at a gate that is closed.
func (g *Gate) becomeAsker(ctx context.Context, l *lines, a Request) error {
	select {
	case l.asker <- struct{}{}:
		return nil
	default:
	}
	for {
		g.mu.Lock()
		pause, shut := l.pause, l.shut
		g.mu.Unlock()
		if pause != nil && a.Patience == 0 && time.Until(pause.Until) > Patience {
			return &RetryLaterError{Model: pause.Model, Until: pause.Until, Reason: pause.Reason}
		}
		select {
		case l.asker <- struct{}{}:
			return nil
		case <-shut:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// noteClosure lets those behind the asker know whether the gate is closed.
func (l *lines) noteClosure(pause *RetryLaterError) {
	l.pause = pause
	if pause != nil {
		close(l.shut)
		l.shut = make(chan struct{})
	}
}

// quit counts a caller as gone. The last one of bulk gives up the process' turn.
func (g *Gate) quit(ctx context.Context, name string, l *lines, a Request) {
	g.mu.Lock()
	l.waiting[a.Lane]--
	last := a.Lane == bulk && l.waiting[bulk] == 0 && (l.turn.line || !l.turn.due.IsZero())
	if last {
		l.turn = turn{seq: l.turn.seq}
	}
	g.mu.Unlock()
	if !last {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if _, err := g.ask(ctx, name, Request{Kind: a.Kind, Lane: leaving}, turn{}); err != nil {
		g.cfg.Log.Debug("line not left", "gate", name, "error", err)
	}
}

// detached is a context for the last words to a gate: it outlives ctx for a second.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Second)
}

// passOne asks one gate until it lets the call through or sends it away.
func (g *Gate) passOne(ctx context.Context, name string, a Request, p *Permit) error {
	if name == Account {
		a.Lane = interactive // it has no pace, only a probe that anyone may be
	}
	c := &caller{gate: g, name: name, ask: a, lines: g.lineOf(name), start: time.Now(), why: Paced}
	c.end = c.patienceEnds()
	err := c.pass(ctx, p)
	if err != nil && a.Lane == interactive && c.turn.slot > 0 {
		g.giveBack(ctx, granted{name: name, slot: c.turn.slot, next: c.turn.next})
	}
	return err
}

// caller is one caller at one gate.
type caller struct {
	gate  *Gate
	name  string
	ask   Request
	lines *lines
	start time.Time
	turn  turn      // of an interactive caller; bulk has that of its process
	retry time.Time // not before, after a gate sent it away for a while
	end   time.Time // when its patience ends, if it does while it waits for its turn
	why   string    // it waits
}

func (c *caller) pass(ctx context.Context, p *Permit) error {
	for {
		if err := c.await(ctx); err != nil {
			return err
		}
		r, err := c.gate.ask(ctx, c.name, c.ask, c.current())
		if err != nil {
			return err
		}
		if r.sweep {
			c.gate.sweep(ctx, c.name)
		}
		c.note(r)
		slot := time.Now().Add(r.wait)
		if r.what == "go" {
			p.got = append(p.got, granted{name: c.name, at: r.now, slot: r.slot, next: r.next, probe: r.probe, tell: r.tell})
		}
		if r.accountShut && c.name != Account && !p.passed(Account) {
			if err := c.gate.passOne(ctx, Account, c.ask, p); err != nil {
				return err
			}
		}
		if r.what == "go" {
			return sleepUntil(ctx, slot)
		}
		if err := c.sentAway(r); err != nil {
			return err
		}
	}
}

// current is the turn with which the caller asks.
func (c *caller) current() turn {
	if c.ask.Lane == interactive {
		return c.turn
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.lines.turn
}

// note takes in an answer. ask.lua promises a wait of more than zero with all but go; it
// is made sure of here too, since a hot loop would be dear.
func (c *caller) note(r answer) {
	c.retry, c.turn = time.Time{}, turn{}
	if r.what == "wait" && c.ask.Lane == interactive {
		c.turn = turn{due: time.Now().Add(max(r.wait, minWait)), slot: r.slot, next: r.next, era: r.era}
	}
}

// sentAway decides whether a caller that may not pass waits in place.
func (c *caller) sentAway(r answer) error {
	left := c.ask.patienceOf(r.interval) - time.Since(c.start)
	wait := max(r.wait, minWait)
	pause := &RetryLaterError{Model: c.name, Until: time.Now().Add(wait), Reason: r.why}
	c.noteClosure(r, pause, left)
	switch r.what {
	case "wait", "line":
		return nil
	case "pause":
		if c.ask.Patience == 0 || left <= 0 {
			return pause
		}
		wait = min(wait, max(left, minWait))
	default: // closed or narrow
		if wait > left {
			return pause
		}
	}
	c.retry = time.Now().Add(wait)
	return nil
}

// noteClosure tells the process' other bulk callers whether the gate is closed. A caller in
// line at a closed gate leaves when its patience ends.
func (c *caller) noteClosure(r answer, pause *RetryLaterError, left time.Duration) {
	if c.ask.Lane == interactive {
		return
	}
	c.end, c.why = c.patienceEnds(), Paced
	if r.why != "" && c.ask.Patience == 0 {
		c.end, c.why = time.Now().Add(max(left, minWait)), r.why
	}
	if r.why == "" {
		pause = nil
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.lines.noteClosure(pause)
}

// patienceEnds returns when a caller with a patience of its own leaves; zero means never.
func (c *caller) patienceEnds() time.Time {
	if c.ask.Patience == 0 {
		return time.Time{}
	}
	return c.start.Add(c.ask.Patience)
}

// await sleeps until it is time to ask. A message to the process' bulk callers, or news
// of the gate, changes that time.
func (c *caller) await(ctx context.Context) error {
	g, isBulk := c.gate, c.ask.Lane == bulk
	var brought time.Time // by news
	for {
		g.mu.Lock()
		t, woken, news, interval := c.turn, c.lines.woken, c.lines.news, c.lines.interval
		if isBulk {
			t = c.lines.turn
		}
		g.mu.Unlock()
		if !isBulk {
			woken = nil
		}
		now := time.Now()
		due := later(t.due, c.retry)
		if !due.After(now) {
			return context.Cause(ctx)
		}
		if !c.end.IsZero() && !c.end.After(now) && c.retry.IsZero() {
			return &RetryLaterError{Model: c.name, Until: now.Add(max(cmp.Or(interval, recheck), minWait)), Reason: c.why}
		}
		if !brought.IsZero() {
			due = earlier(due, brought)
		}
		due = earlier(due, now.Add(c.recheck(due.Sub(now))))
		ends := !c.end.IsZero() && c.end.Before(due) && c.retry.IsZero()
		if ends {
			due = c.end
		}
		timer := time.NewTimer(due.Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
			if !ends {
				return nil
			}
		case <-woken:
			timer.Stop()
		case <-news:
			timer.Stop()
			brought = time.Now().Add(c.afterNews(due))
		}
	}
}

// recheck returns how long a caller sleeps at most before it asks again, in case a message
// was lost. A caller with a reserved slot asks rarely.
func (c *caller) recheck(wait time.Duration) time.Duration {
	switch {
	case c.gate.listening.Load():
		return 12 * recheck
	case c.turn.slot > 0:
		return max(recheck, wait/2)
	}
	return recheck
}

// afterNews spreads the questions of all that hear the same news: those with a slot keep
// their order, the others ask within a tenth of a second.
func (c *caller) afterNews(due time.Time) time.Duration {
	if c.turn.slot > 0 {
		return time.Until(due) / 10
	}
	return minWait + rand.N(100*time.Millisecond)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// giveBack returns a slot whose call is not made.
func (g *Gate) giveBack(ctx context.Context, got granted) {
	ctx, cancel := detached(ctx)
	defer cancel()
	g.mu.Lock()
	inFlight := g.at(got.name).inFlight
	g.mu.Unlock()
	if _, err := g.report(ctx, got, returned, 0, inFlight); err != nil {
		g.cfg.Log.Debug("slot not returned", "gate", got.name, "error", err)
	}
}

func sleepUntil(ctx context.Context, at time.Time) error {
	d := time.Until(at)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
