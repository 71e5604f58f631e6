package gate

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

const (
	fresh = time.Second      // figures that changed are told after this time,
	soon  = 5 * time.Second  // or after this one when bulk callers wait: their next question tells them
	beat  = 9 * time.Second  // a process that has something at a gate is not silent for longer
	stale = 15 * time.Second // a process that was silent for so long is dead, see sweep.lua
)

// Run listens for messages of the gates and keeps the figures of this process up to date
// until ctx ends.
func (g *Gate) Run(ctx context.Context) error {
	var both errgroup.Group
	both.Go(func() error { g.listen(ctx); return nil })
	both.Go(func() error { g.tellFigures(ctx); return nil })
	_ = both.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return g.leave(ctx)
}

func (g *Gate) tellFigures(ctx context.Context) {
	tick := time.NewTicker(fresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.tell(ctx)
		}
	}
}

// figures counts the calls and callers of a process at a gate.
type figures struct{ inFlight, interactive, bulk, seats, bulkSeats int }

func (l *lines) figures() figures {
	return figures{l.inFlight, l.waiting[interactive], l.waiting[bulk], l.seats[interactive], l.seats[bulk]}
}

func (f figures) idle() bool { return f.inFlight+f.interactive+f.bulk == 0 }

// noteTold notes what Redis has of this process since a question; the caller holds the
// lock. at is the time of Redis in microseconds.
func (l *lines) noteTold(f figures, at, seq int64) {
	if seq < l.toldSeq {
		return
	}
	l.told, l.toldAt, l.redisAt, l.toldSeq = f, time.Now(), at, seq
}

// tell writes figures that changed, or that Redis would soon take for those of a dead
// process. These are plain commands with an estimate of Redis' clock: each process of a
// fleet sends them.
func (g *Gate) tell(ctx context.Context) {
	pipe := g.cfg.Redis.Pipeline()
	now, asked := time.Now(), map[*lines]int64{}
	g.mu.Lock()
	for name, l := range g.lines {
		f, was, age := l.figures(), l.told, now.Sub(l.toldAt)
		due := beat
		switch changed := f != was || l.doubt; {
		case changed && f.bulk > 0:
			due = soon
		case changed:
			due = fresh
		case f.idle():
			continue
		}
		if l.redisAt == 0 || age < due {
			continue
		}
		if l.doubt {
			was = f // the sums are recounted every few seconds
		}
		asked[l] = l.toldSeq
		at := l.redisAt + age.Microseconds()
		pipe.HSet(ctx, Key(name), "p:"+g.process, fmt.Sprint(at, f.inFlight, f.interactive, f.bulk, f.seats, f.bulkSeats))
		for field, more := range map[string]int{
			"flight": f.inFlight - was.inFlight, interactive: f.interactive - was.interactive, bulk: f.bulk - was.bulk,
		} {
			if more != 0 {
				pipe.HIncrBy(ctx, Key(name), field, int64(more))
			}
		}
		l.noteTold(f, at, l.toldSeq)
	}
	g.mu.Unlock()
	if pipe.Len() == 0 {
		return
	}
	_, err := pipe.Exec(ctx)
	if err != nil {
		g.cfg.Log.Debug("gates not told of running calls", "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for l, seq := range asked {
		l.doubt = err != nil || l.toldSeq != seq || l.asking > 0
	}
}

// leave removes the figures of this process from the gates.
func (g *Gate) leave(ctx context.Context) error {
	pipe := g.cfg.Redis.Pipeline()
	g.mu.Lock()
	for name, l := range g.lines {
		for field, n := range map[string]int{"flight": l.told.inFlight, interactive: l.told.interactive, bulk: l.told.bulk} {
			if n != 0 {
				pipe.HIncrBy(ctx, Key(name), field, -int64(n))
			}
		}
		pipe.HDel(ctx, Key(name), "p:"+g.process)
		pipe.ZRem(ctx, lineKey(name), g.process)
		l.told, l.redisAt = figures{}, 0
	}
	g.mu.Unlock()
	if _, err := pipe.Exec(ctx); err != nil {
		g.cfg.Log.Debug("gates not left", "error", err) // they forget a silent process by themselves
	}
	return nil
}

var sweepScript = redis.NewScript(commonLua + sweepLua)

// sweep forgets dead processes at a gate.
func (g *Gate) sweep(ctx context.Context, name string) {
	if err := sweepScript.Run(ctx, g.cfg.Redis, keys(name)).Err(); err != nil {
		g.cfg.Log.Debug("gate not swept", "gate", name, "error", err)
	}
}
