package schedule

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	retryEvery = 5 * time.Second  // between attempts at a slot that could not be enqueued
	patience   = 30 * time.Second // most time for one attempt
	// slotsAtOnce is how many slots of a process are being enqueued at a time.
	slotsAtOnce = 16
)

// runner fires the slots of one schedule, in order. Each schedule has a runner of its own,
// so that a long catch-up of one does not hold up the others.
type runner struct {
	*dispatcher
	entry    Entry
	atOnce   *semaphore.Weighted // shared by all runners of the process
	longest  time.Duration       // longest sleep, because the clock may be changed meanwhile
	trying   time.Time           // the due slot that is tried until the next one is due
	claimed  time.Time           // a slot that was claimed before this start and has no task yet
	reported time.Time           // the slot last logged as not enqueued
}

// run fires slots until ctx ends.
func (r *runner) run(ctx context.Context) {
	from, ok := r.start(ctx)
	if !ok {
		return
	}
	for slot := r.entry.Next(from); !slot.IsZero(); {
		slot = r.fireDue(ctx, slot)
		wait := slot.Sub(r.now())
		if wait <= 0 {
			wait = retryEvery
		}
		if !sleep(ctx, min(wait, r.longest)) {
			return
		}
	}
	<-ctx.Done()
}

// start returns the time after which slots have not been fired, from the runs in the
// bucket. It repeats a reading that fails; ok is false when ctx has ended.
func (r *runner) start(ctx context.Context) (from time.Time, ok bool) {
	for {
		limited, cancel := context.WithTimeout(ctx, patience)
		now := r.now()
		last, claimed, err := ledgerOf(r.store, r.tenant, r.entry.Name).latest(limited, now)
		cancel()
		switch {
		case err == nil:
			return r.from(now, last, claimed), true
		case ctx.Err() != nil:
			return time.Time{}, false
		}
		if r.reported.IsZero() {
			r.reported = now
			r.log.Error("the runs of a schedule cannot be read; it is tried again", "schedule", r.entry.Name, "error", err, "every", retryEvery)
		}
		if !sleep(ctx, retryEvery) {
			return time.Time{}, false
		}
	}
}

// from returns the time after which slots are due, given the latest run.
func (r *runner) from(now, last time.Time, claimed bool) time.Time {
	from, reach := r.entry.since, r.entry.reach
	if last.After(from) {
		from = last
		if claimed && now.Sub(last) <= max(reach, missedWithin) { // its scheduler may have died
			r.claimed = last
			return last.Add(-time.Second)
		}
	}
	if from.IsZero() && r.entry.Missed == MissedSkip {
		reach = 0 // nothing shows that the schedule was there before
	}
	if oldest := now.Add(-reach); from.Before(oldest) {
		if first := r.entry.Next(from); !from.IsZero() && !first.IsZero() && !first.After(oldest) {
			r.log.Warn("slots were missed while no scheduler ran, and are too old", "schedule", r.entry.Name, "first", first, "within", reach)
		}
		from = oldest
	}
	return from
}

// fireDue fires the due slots. It returns the slot to wait for: the next one, or a due one
// that must be tried again.
func (r *runner) fireDue(ctx context.Context, slot time.Time) time.Time {
	skipped := 0
	for now := r.now(); !slot.IsZero() && !slot.After(now) && ctx.Err() == nil; {
		following := r.entry.Next(slot)
		outrun := !following.IsZero() && !following.After(now)
		late := now.Sub(slot) > r.entry.reach
		drop := outrun && (late || r.entry.Missed != MissedAll) || late && !slot.Equal(r.trying)
		if drop && !slot.Equal(r.claimed) {
			skipped++
		} else if r.trying = slot; !r.fire(ctx, slot) {
			break
		}
		slot = following
	}
	if skipped > 0 {
		r.log.Warn("slots skipped: they are too old, or later ones of the schedule are due", "schedule", r.entry.Name, "slots", skipped)
	}
	return slot
}

// fire fires one slot. It returns false if the slot must be tried again.
func (r *runner) fire(ctx context.Context, slot time.Time) bool {
	if r.atOnce.Acquire(ctx, 1) != nil {
		return false
	}
	defer r.atOnce.Release(1)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := r.dispatch(limited, r.entry, slot, false)
	if err == nil {
		return true
	}
	if ctx.Err() == nil && !errors.Is(err, errClaimed) && !r.reported.Equal(slot) {
		r.reported = slot
		r.log.Error("slot not enqueued; it is tried again", "schedule", r.entry.Name, "slot", slot, "error", err, "every", retryEvery)
	}
	return false
}

// sleep waits until d has passed, or returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
