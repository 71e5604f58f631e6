package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/liveness"
	"github.com/neuronmill/neuronmill/internal/taskstate"
)

// Every running task has an owner, called holder in its record: the process that claimed
// it. While the owner lives, no other process runs the task, even if Redis was away or
// the lease expired. Once the owner is dead, the task's next run counts a crash.

// errOwned returns the error for a task that another living process owns.
func errOwned() error { return &requeueError{after: 5 * time.Second, why: "another worker is at it"} }

// errForgot returns the error for a task whose claim cannot be trusted: Redis has lost its
// memory, and with it the claim of a worker that may be calling for the task right now.
// Living workers register their claims again meanwhile.
func errForgot() error {
	return &requeueError{after: liveness.Stabilisation, why: "Redis lost its memory"}
}

// owner returns this process as the owner of tasks.
func (e *Engine) owner() taskstate.Owner {
	return taskstate.Owner{Redis: e.cfg.Redis, ID: e.process.ID()}
}

// record identifies the live record of the task.
func (j *job) record() taskstate.Task {
	return taskstate.Task{ID: j.task.ID, Expires: j.task.Deadline.Add(taskstate.LiveTTL)}
}

// claim makes this process the owner of the task and reads its counters. When the owner in
// the record is dead, claim counts a crash and claims the task from it.
func (e *Engine) claim(ctx context.Context, j *job) error {
	me := e.owner()
	for {
		mark, readMark := e.readMark(ctx)
		owner, read, err := me.Claim(ctx, j.record(), readMark)
		if err == nil && owner == me.ID {
			var known bool
			if known, err = e.remembers(ctx, mark()); err == nil && !known {
				j.held, j.unread = true, true
				return errForgot()
			}
		}
		if err != nil {
			j.held, j.unread = true, true // perhaps claimed: only the reply may be lost
			return &redisError{fmt.Errorf("claim the task: %w", err)}
		}
		if owner == me.ID {
			j.held, j.unread = true, false
			j.counts = countersOf(read)
			return nil
		}
		alive, err := e.process.Alive(ctx, owner)
		if err != nil {
			return &redisError{err}
		}
		if alive {
			return errOwned()
		}
		crashes, err := me.CountCrash(ctx, j.task.ID, owner)
		if err != nil {
			return &redisError{fmt.Errorf("count a crash: %w", err)}
		}
		if crashes > 0 {
			e.cfg.Log.Warn("a worker died while it was at this task", "task", j.task.ID, "kind", j.task.Kind)
		}
	}
}

// release ends the ownership of a task that returns to the queue, and writes its counters.
func (e *Engine) release(ctx context.Context, j *job) {
	if !j.held {
		return
	}
	j.held = false
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := e.owner().Release(ctx, j.task.ID, j.recordCounters()); err != nil {
		e.cfg.Log.Warn("a run's outcome is not counted", "task", j.task.ID, "error", clean(err.Error()))
	}
}

// idleAfter is how long a task waits for a permit before it is marked idle. From then on
// the death of its owner does not count as its crash.
const idleAfter = time.Second

// markIdleLater marks the task as idle after idleAfter, unless done is called first. A suspect is
// marked at once, while it is still isolated: afterwards another suspect may crash this
// worker.
func (e *Engine) markIdleLater(ctx context.Context, j *job) (done func() bool) {
	if !j.held {
		return func() bool { return true }
	}
	id, calls := j.task.ID, j.counts.calls
	mark := func() {
		j.idle.Store(true)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := e.owner().MarkIdle(ctx, id, calls); err != nil {
			e.cfg.Log.Debug("a waiting task is not marked", "task", id, "error", clean(err.Error()))
		}
	}
	unmark := func(stop func() bool) func() bool {
		return func() bool {
			defer j.idle.Store(false)
			return stop()
		}
	}
	if j.crashes() > 0 {
		mark()
		return unmark(func() bool { return true })
	}
	return unmark(time.AfterFunc(idleAfter, mark).Stop)
}

// registerClaims registers the claims of this process again, after Redis has lost them.
func (e *Engine) registerClaims(ctx context.Context) {
	pipe := e.cfg.Redis.Pipeline()
	e.running.Range(func(id, value any) bool {
		if j, ok := value.(*job); ok && j.mayCall.Load() {
			e.owner().Register(ctx, pipe, j.record(), j.idle.Load())
		}
		return true
	})
	if _, err := pipe.Exec(ctx); err != nil {
		e.cfg.Log.Warn("running tasks not marked again", "error", clean(err.Error()))
	}
}
