// Package schedule enqueues tasks by the clock. A slot is one point in time of a schedule.
// Each slot fires once, with any number of schedulers, because the id of its task is made
// of the schedule's name and the slot's time. Load reads the file, New makes the Service.
package schedule

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/robfig/cron/v3"
)

// Entry is one schedule.
type Entry struct {
	Name    string
	payload tasks.Payload
	options []tasks.Option
	ttl     time.Duration // from the slot on; 0 means the kind's maximum age
	slots   cron.Schedule
	zone    *time.Location
}

// Run is a future slot of a schedule.
type Run struct {
	Name string
	At   time.Time // in the schedule's time zone
	Zone string    // name of that zone
	Kind tasks.Kind
}

// Scheduler is a Service that enqueues the task of each due slot.
type Scheduler struct {
	// CatchUp is the greatest age of a missed slot that still fires. Zero skips missed
	// slots. A slot that did fire is not repeated while its result exists.
	CatchUp time.Duration

	entries []Entry
	client  *tasks.Client
	log     *slog.Logger
	failing map[string]time.Time // the slot last logged as not enqueued, by schedule
}

// New makes a scheduler; Run starts it.
func New(entries []Entry, client *tasks.Client, log *slog.Logger) *Scheduler {
	return &Scheduler{entries: entries, client: client, log: log, failing: map[string]time.Time{}}
}

const (
	retryEvery = 5 * time.Second  // between attempts at a slot that could not be enqueued
	patience   = 30 * time.Second // most time for one attempt, before the other schedules follow
)

// Run enqueues until ctx ends. A slot that could not be enqueued is retried until the next
// slot of its schedule is due, or for CatchUp.
func (s *Scheduler) Run(ctx context.Context) error {
	if len(s.entries) == 0 {
		return errors.New("no schedules")
	}
	next := make([]time.Time, len(s.entries))
	for i, e := range s.entries {
		next[i] = e.Next(time.Now().Add(-s.CatchUp))
	}
	for {
		// Sleep at most a minute, because the clock may be changed meanwhile.
		wake := time.Now().Add(time.Minute)
		for i, e := range s.entries {
			next[i] = s.settle(ctx, e, next[i])
			due := next[i]
			if now := time.Now(); !due.After(now) {
				due = now.Add(retryEvery)
			}
			if !next[i].IsZero() && due.Before(wake) {
				wake = due
			}
		}
		timer := time.NewTimer(time.Until(wake))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// settle fires the due slots of one schedule. It returns the slot to wait for: the next
// one, or a due slot that must be retried.
func (s *Scheduler) settle(ctx context.Context, e Entry, slot time.Time) time.Time {
	skipped := 0
	for now := time.Now(); !slot.IsZero() && !slot.After(now) && ctx.Err() == nil; {
		following := e.Next(slot)
		outrun := !following.IsZero() && !following.After(now)
		if outrun && now.Sub(slot) > s.CatchUp {
			skipped++
		} else if !s.fire(ctx, e, slot) {
			break
		}
		slot = following
	}
	if skipped > 0 {
		s.log.Warn("slots skipped: later ones of the schedule are due", "schedule", e.Name, "slots", skipped)
	}
	return slot
}

// fire enqueues the task of one slot. It returns false if the slot must be retried.
func (s *Scheduler) fire(ctx context.Context, e Entry, slot time.Time) bool {
	log := s.log.With("schedule", e.Name, "slot", slot)
	options := append(slices.Clip(e.options), tasks.WithScheduleSlot(e.Name, slot))
	if e.ttl > 0 {
		deadline := slot.Add(e.ttl)
		if !deadline.After(time.Now()) {
			log.Warn("slot skipped: its deadline has passed", "deadline", deadline)
			return true
		}
		options = append(options, tasks.WithDeadline(deadline))
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	accepted, err := s.client.Enqueue(limited, e.payload, options...)
	if err == nil {
		log.Info("slot enqueued", "task", accepted.ID, "by_another", accepted.Existing)
		return true
	}
	if errors.Is(err, tasks.ErrIdempotencyMismatch) {
		log.Error("slot was enqueued with another task; is a scheduler running with an older file?", "error", err)
		return true
	}
	if _, refused := errors.AsType[tasks.ValidationError](err); refused {
		log.Error("slot given up: its task is refused", "error", err)
		return true
	}
	if ctx.Err() == nil && !s.failing[e.Name].Equal(slot) {
		s.failing[e.Name] = slot
		log.Error("slot not enqueued; it is tried again", "error", err, "every", retryEvery)
	}
	return false
}
