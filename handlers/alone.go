package handlers

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// A task that kills its worker takes innocent ones with it. So a task that was in a
// worker that died runs again in small company, after the second time alone: who is
// there when a worker dies a third time, killed it.

const (
	crashLimit = 3
	company    = 4       // suspects of one death at a time
	everyone   = 1 << 20 // parts of a room, more than a process has tasks
)

// room is a process as tasks see it: each takes one part, one that must be alone all.
type room struct {
	all      *semaphore.Weighted
	suspects *semaphore.Weighted
}

func newRoom() room {
	return room{semaphore.NewWeighted(everyone), semaphore.NewWeighted(company)}
}

// enter waits for the company that suits a task's crashes. Leave ends its stay.
func (r room) enter(ctx context.Context, crashes int) (leave func(), err error) {
	parts := int64(1)
	if crashes >= crashLimit-1 {
		parts = everyone
	}
	if crashes > 0 {
		if err := r.suspects.Acquire(ctx, 1); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	if err := r.all.Acquire(ctx, parts); err != nil {
		if crashes > 0 {
			r.suspects.Release(1)
		}
		return nil, context.Cause(ctx)
	}
	return func() {
		r.all.Release(parts)
		if crashes > 0 {
			r.suspects.Release(1)
		}
	}, nil
}
