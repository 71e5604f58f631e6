package limit

import (
	"context"
	"sync"
	"time"
)

// Patience is how long a caller may hold its worker slot for its turn, unless it
// asks for more: a slow model must not keep the slots of the others of its kind.
const Patience = 3 * time.Second

// spread widens the spacing of calls a little beyond the limit, so that jitter on
// the way does not push a minute over it.
const spread = 1.01

// Local is the gate of one process: even spacing per model, interactive before
// bulk, closed when told. It keeps nothing over a restart.
type Local struct {
	perMinute func(model, kind string) int

	mu      sync.Mutex
	models  map[string]*lanes
	account closure
}

type closure struct {
	until  time.Time
	reason string
}

// lanes is the state of one model's gate.
type lanes struct {
	next        time.Time // when the next call may leave
	interactive int       // callers that hold a later slot
	bulk        int       // callers that wait for a free one
	closed      closure
}

// NewLocal makes a gate; perMinute gives the requests a minute of a model, 0 means
// closed until it says otherwise.
func NewLocal(perMinute func(model, kind string) int) *Local {
	return &Local{perMinute: perMinute, models: map[string]*lanes{}}
}

// Close stops a model, or all of them when model is "". A later end wins over an
// earlier one.
func (l *Local) Close(_ context.Context, model string, until time.Time, reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.account
	if model != "" {
		c = &l.lanes(model).closed
	}
	if until.After(c.until) {
		*c = closure{until, reason}
	}
	return nil
}

// Wait implements Gate.
func (l *Local) Wait(ctx context.Context, a Ask) error {
	patience := a.Patience
	if patience == 0 {
		patience = Patience
	}
	if a.Lane == "bulk" {
		return l.waitBulk(ctx, a, patience)
	}
	return l.waitInteractive(ctx, a, patience)
}

// waitInteractive reserves the next slot at once and sleeps until it comes.
func (l *Local) waitInteractive(ctx context.Context, a Ask, patience time.Duration) error {
	for {
		l.mu.Lock()
		now, m := time.Now(), l.lanes(a.Model)
		turn, interval, pause := l.turn(now, m, a, 0, patience)
		if pause != nil {
			l.mu.Unlock()
			return pause
		}
		if c := l.closedUntil(m); c.until.After(now) {
			l.mu.Unlock()
			if err := sleep(ctx, c.until.Sub(now)); err != nil {
				return err
			}
			continue
		}
		m.next = turn.Add(interval)
		m.interactive++
		l.mu.Unlock()

		err := sleep(ctx, turn.Sub(now))
		l.mu.Lock()
		m.interactive--
		c := l.closedUntil(m)
		l.mu.Unlock()
		if err != nil || !c.until.After(time.Now()) {
			return err
		}
	}
}

// waitBulk takes a slot only when it is free and no interactive caller waits.
func (l *Local) waitBulk(ctx context.Context, a Ask, patience time.Duration) error {
	l.mu.Lock()
	m := l.lanes(a.Model)
	ahead := m.bulk
	m.bulk++
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		m.bulk--
		l.mu.Unlock()
	}()
	for first := true; ; first = false {
		l.mu.Lock()
		now := time.Now()
		if !first {
			ahead = 0
		}
		turn, interval, pause := l.turn(now, m, a, ahead, patience)
		if pause != nil && (first || pause.Reason != Paced) {
			l.mu.Unlock()
			return pause
		}
		c := l.closedUntil(m)
		if !turn.After(now) && m.interactive == 0 && !c.until.After(now) {
			m.next = now.Add(interval)
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		wait := max(turn.Sub(now), c.until.Sub(now), time.Millisecond)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// turn says when the call could leave with ahead others of its lane before it, or
// why it is better to come again later.
func (l *Local) turn(now time.Time, m *lanes, a Ask, ahead int, patience time.Duration) (time.Time, time.Duration, *PauseError) {
	rate := l.perMinute(a.Model, a.Kind)
	if rate <= 0 {
		return now, 0, &PauseError{Model: a.Model, Until: now.Add(time.Minute), Reason: "closed: its pace is set to 0"}
	}
	interval := time.Duration(float64(time.Minute) / float64(rate) * spread)
	turn, reason := later(m.next, now).Add(time.Duration(ahead)*interval), Paced
	if c := l.closedUntil(m); c.until.After(turn) {
		turn, reason = c.until, "closed: "+c.reason
	}
	if turn.Sub(now) > patience {
		return turn, interval, &PauseError{Model: a.Model, Until: turn, Reason: reason}
	}
	return turn, interval, nil
}

func (l *Local) closedUntil(m *lanes) closure {
	if l.account.until.After(m.closed.until) {
		return l.account
	}
	return m.closed
}

func (l *Local) lanes(model string) *lanes {
	m := l.models[model]
	if m == nil {
		m = &lanes{}
		l.models[model] = m
	}
	return m
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
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
