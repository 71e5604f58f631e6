// Package schedule enqueues tasks by the clock. Each slot of a schedule fires once,
// with any number of schedulers: the id of its task is made of the schedule's name and
// the slot's time. Load reads the file, New makes the Service.
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

// Run is a slot that comes.
type Run struct {
	Name string
	At   time.Time // in the schedule's time zone
	Kind tasks.Kind
}

// Scheduler is a Service that enqueues what is due.
type Scheduler struct {
	// CatchUp is how old a slot may be that nobody was there for, and still fire. Zero
	// skips such slots. A slot that did fire is not repeated while its result exists.
	CatchUp time.Duration

	entries []Entry
	client  *tasks.Client
	log     *slog.Logger
}

// New makes a scheduler; Run starts it.
func New(entries []Entry, client *tasks.Client, log *slog.Logger) *Scheduler {
	return &Scheduler{entries: entries, client: client, log: log}
}

const (
	retryEvery = 5 * time.Second  // how often a slot is tried again while the queue cannot take it
	patience   = 30 * time.Second // with one slot, before the others get their turn
)

// Run enqueues until ctx ends. A slot that Redis could not take is tried until the
// next one of its schedule is due, or for CatchUp.
func (s *Scheduler) Run(ctx context.Context) error {
	if len(s.entries) == 0 {
		return errors.New("no schedules")
	}
	next := make([]time.Time, len(s.entries))
	for i, e := range s.entries {
		next[i] = e.Next(time.Now().Add(-s.CatchUp))
	}
	for {
		// At most a minute at a time: the clock may be set meanwhile.
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

// settle fires what is due of one schedule and gives the slot to wait for: the next
// one, or one that is due and must be tried again.
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

// fire enqueues one slot; false when it must be tried again.
func (s *Scheduler) fire(ctx context.Context, e Entry, slot time.Time) bool {
	log := s.log.With("schedule", e.Name, "slot", slot)
	options := append(slices.Clip(e.options), tasks.WithIdempotencyKey("schedule/"+e.Name+"/"+slot.UTC().Format(time.RFC3339)))
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
	if _, refused := errors.AsType[tasks.Problems](err); refused {
		log.Error("slot given up: its task is refused", "error", err)
		return true
	}
	if ctx.Err() == nil {
		log.Error("slot not enqueued, will try again", "error", err, "again_in", retryEvery)
	}
	return false
}
