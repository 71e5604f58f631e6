package engine

import (
	"context"

	"github.com/neuronmill/neuronmill/internal/gate"
	"golang.org/x/sync/semaphore"
)

// Isolation finds the poison task among the tasks of a crashed worker. A suspect is a task
// whose worker died. It runs with few other suspects, and after a second crash in
// exclusive isolation: if a third worker dies then, that task crashed it.
//
// A task is isolated from its claim to its commit, except while it waits at the gate: a
// waiting task cannot crash the worker, and must not block others.

const (
	crashLimit  = 3       // crashes after which a task fails as poisoned
	fewSuspects = 4       // suspects with one crash that run at a time
	wholeWorker = 1 << 20 // all shares of a worker, more than it has tasks
)

// isolation divides a worker into shares: a task acquires one share, an exclusive task
// acquires all.
type isolation struct {
	shares   *semaphore.Weighted
	suspects *semaphore.Weighted
}

func newIsolation() isolation {
	return isolation{semaphore.NewWeighted(wholeWorker), semaphore.NewWeighted(fewSuspects)}
}

// exclusive reports whether a task with this crash count runs in exclusive isolation.
func exclusive(crashes int) bool { return crashes >= crashLimit-1 }

// sizeOf returns how many shares of the worker, and how many slots for suspects, a task with
// this crash count acquires.
func sizeOf(crashes int) (shares, suspects int64) {
	switch {
	case exclusive(crashes):
		return wholeWorker, 1
	case crashes > 0:
		return 1, 1
	}
	return 1, 0
}

// enter waits for the isolation that tasks with these crash counts need. It returns for each
// task the function that ends its part. An exclusive task enters alone.
func (i isolation) enter(ctx context.Context, crashes ...int) (leave []func(), err error) {
	shares, suspects := i.sum(crashes)
	if err := i.suspects.Acquire(ctx, suspects); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := i.shares.Acquire(ctx, shares); err != nil {
		i.suspects.Release(suspects)
		return nil, context.Cause(ctx)
	}
	return i.leaves(crashes), nil
}

// tryEnter is enter without a wait; it returns nil when the isolation is not available.
func (i isolation) tryEnter(crashes ...int) (leave []func()) {
	shares, suspects := i.sum(crashes)
	if !i.suspects.TryAcquire(suspects) {
		return nil
	}
	if !i.shares.TryAcquire(shares) {
		i.suspects.Release(suspects)
		return nil
	}
	return i.leaves(crashes)
}

func (i isolation) sum(crashes []int) (shares, suspects int64) {
	for _, c := range crashes {
		a, b := sizeOf(c)
		shares, suspects = shares+a, suspects+b
	}
	return shares, suspects
}

func (i isolation) leaves(crashes []int) []func() {
	leave := make([]func(), len(crashes))
	for k, c := range crashes {
		shares, suspects := sizeOf(c)
		leave[k] = func() {
			i.shares.Release(shares)
			i.suspects.Release(suspects)
		}
	}
	return leave
}

// crashes returns the crash count that decides on the task's isolation.
func (j *job) crashes() int { return j.counts.crashes }

// isolate waits for the isolation that a task with this crash count needs.
func (j *job) isolate(ctx context.Context, crashes int) error {
	leave, err := j.engine.isolation.enter(ctx, crashes)
	if err != nil {
		return err
	}
	j.leaveFunc = leave[0]
	return nil
}

// leaveIsolation ends the task's isolation, if it is in one.
func (j *job) leaveIsolation() {
	if j.leaveFunc != nil {
		j.leaveFunc()
		j.leaveFunc = nil
	}
}

// permit acquires a permit from the gate, and the isolation that tasks with these crash
// counts need. It gives the permit back before a wait for isolation: a held permit would
// block a slot for all workers, and its call would start later than the gate counted it.
func (e *Engine) permit(ctx context.Context, ask gate.Request, crashes ...int) (p *gate.Permit, leave []func(), err error) {
	for {
		if p, err = e.cfg.Gate.Acquire(ctx, ask); err != nil {
			return nil, nil, err
		}
		if leave = e.isolation.tryEnter(crashes...); leave != nil {
			return p, leave, nil
		}
		p.GiveBack(ctx)
		if leave, err = e.isolation.enter(ctx, crashes...); err != nil {
			return nil, nil, err
		}
		inside := ask
		inside.Patience = gate.Patience // short, since others wait for this isolation
		if p, err = e.cfg.Gate.Acquire(ctx, inside); err == nil {
			return p, leave, nil
		}
		for _, l := range leave {
			l()
		}
		if !paused(err) {
			return nil, nil, err
		}
	}
}
