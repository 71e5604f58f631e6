package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
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
	return taskstate.Owner{Redis: e.cfg.Redis, ID: e.process.ID(), Memory: e.process.Memory()}
}

// record identifies the live record of the task.
func (j *job) record() taskstate.Task {
	return taskstate.Task{ID: j.task.ID, Expires: j.task.Deadline.Add(taskstate.LiveTTL)}
}

// claim makes this process the owner of the task and reads its counters. When the owner in
// the record is dead, claim counts a crash and claims the task from it. isolated says that
// the task has the isolation that its crashes need.
func (e *Engine) claim(ctx context.Context, j *job, isolated bool) error {
	if err := e.releaseFirst(ctx, j.task.ID); err != nil {
		return err
	}
	me := e.owner()
	for {
		mark, readMark := e.readMark(ctx)
		owner, read, err := me.Claim(ctx, j.record(), isolated, readMark)
		if err == nil && owner.ID == me.ID {
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
		if owner.ID == me.ID {
			j.held, j.unread = true, false
			j.counts = countersOf(read)
			return nil
		}
		if err := e.dropOwner(ctx, j, owner); err != nil {
			return err
		}
	}
}

// dropOwner removes the owner of a task if it is dead, or lives and no longer runs the task.
// Otherwise it returns the error of an owned task.
func (e *Engine) dropOwner(ctx context.Context, j *job, owner taskstate.Owner) error {
	alive, err := e.process.Alive(ctx, owner.ID)
	switch {
	case err != nil:
		return &redisError{err}
	case alive && !e.process.Stale(owner.Memory):
		return errOwned()
	case alive:
		if err := e.owner().DropStale(ctx, j.task.ID, owner); err != nil {
			return &redisError{fmt.Errorf("drop a stale claim: %w", err)}
		}
		return nil
	}
	crashes, err := e.owner().CountCrash(ctx, j.task.ID, owner.ID)
	if err != nil {
		return &redisError{fmt.Errorf("count a crash: %w", err)}
	}
	if crashes > 0 {
		e.cfg.Log.Warn("a worker died while it was at this task", "task", j.task.ID, "kind", j.task.Kind)
	}
	return nil
}

// release ends the ownership of a task that returns to the queue, and writes its counters.
func (e *Engine) release(ctx context.Context, j *job) {
	if !j.held {
		return
	}
	j.held = false
	overtaken := e.registrations.watch()
	j.mayCall.Store(false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := e.owner().Release(ctx, j.task.ID, j.recordCounters()); err != nil {
		e.late.add(j.task.ID, j.recordCounters())
		e.cfg.Log.Warn("a run's outcome is not counted yet", "task", j.task.ID, "error", clean(err.Error()))
	} else if overtaken() {
		e.late.add(j.task.ID, nil)
	}
}

// registrations tells a release whether claims were registered again meanwhile: a registration
// that began before may write the claim after it is released, as if this process still ran the
// task.
type registrations struct{ begun, active atomic.Int64 }

// begin counts a registration until end is called.
func (r *registrations) begin() (end func()) {
	r.active.Add(1)
	r.begun.Add(1)
	return func() { r.active.Add(-1) }
}

// watch returns a func that reports whether a registration was under way at any time since.
func (r *registrations) watch() (overlapped func() bool) {
	active, begun := r.active.Load() > 0, r.begun.Load()
	return func() bool { return active || r.begun.Load() != begun }
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
func (e *Engine) registerClaims(ctx context.Context) error {
	defer e.registrations.begin()()
	var running []taskstate.Running
	e.running.Range(func(id, value any) bool {
		if j, ok := value.(*job); ok && j.mayCall.Load() {
			running = append(running, taskstate.Running{Task: j.record(), Idle: j.idle.Load()})
		}
		return true
	})
	if err := e.owner().Register(ctx, running); err != nil {
		e.cfg.Log.Warn("running tasks not marked again", "error", clean(err.Error()))
		return fmt.Errorf("register the claims: %w", err)
	}
	return nil
}

// lateReleases are the releases that failed, or that a registration may have undone, by task. Until they are done, their tasks look
// as if this process still ran them.
type lateReleases struct {
	mu    sync.Mutex
	tasks map[string]*taskstate.Counters
	doing map[string]bool // those that are under way
}

// mostLate bounds the late releases. The task of a dropped release waits until this
// process takes it again or ends.
const mostLate = 10_000

func (l *lateReleases) add(id string, c *taskstate.Counters) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tasks == nil {
		l.tasks, l.doing = map[string]*taskstate.Counters{}, map[string]bool{}
	}
	if len(l.tasks) < mostLate {
		l.tasks[id] = c
	}
}

// errReleasing means that the late release of a task is under way: it would undo a claim.
var errReleasing = errors.New("an earlier run of the task is being released")

// take removes the release of a task, which is under way until done is called. Done is nil if
// there is none.
func (l *lateReleases) take(id string) (c *taskstate.Counters, done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doing[id] {
		return nil, nil, errReleasing
	}
	c, late := l.tasks[id]
	if !late {
		return nil, nil, nil
	}
	delete(l.tasks, id)
	l.doing[id] = true
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.doing, id)
	}, nil
}

func (l *lateReleases) ids() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.tasks))
}

// releaseLate does the late releases, until one fails again. It waits for registrations, which
// may write the claims once more.
func (e *Engine) releaseLate(ctx context.Context) {
	if e.registrations.active.Load() > 0 {
		return
	}
	for _, id := range e.late.ids() {
		if e.releaseFirst(ctx, id) != nil {
			return
		}
	}
}

// releaseFirst does the late release of a task, if there is one.
func (e *Engine) releaseFirst(ctx context.Context, id string) error {
	c, done, err := e.late.take(id)
	switch {
	case err != nil:
		return &redisError{err}
	case done == nil:
		return nil
	}
	defer done()
	if err := e.owner().Release(ctx, id, c); err != nil {
		e.late.add(id, c)
		return &redisError{fmt.Errorf("release the task: %w", err)}
	}
	return nil
}
