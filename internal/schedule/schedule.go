// Package schedule enqueues tasks by the clock. Each slot of a schedule fires once,
// with any number of schedulers: the id of its task is made of the schedule's name and
// the slot's time.
package schedule

import (
	"context"
	"errors"
	"fmt"
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
	ttl     time.Duration // 0 means the kind's maximum age
	slots   cron.Schedule
	zone    *time.Location
}

// Next is the first slot behind t. A schedule for certain hours goes by the clock on
// the wall: a slot in the hour that is skipped in spring comes right after it, one in
// the hour that comes twice in autumn comes once. Hourly ones go by elapsed time.
func (e Entry) Next(t time.Time) time.Time {
	const everyHour = 1 << 63 // cron's mark of a "*" field
	if s, ok := e.slots.(*cron.SpecSchedule); !ok || s.Hour&everyHour != 0 {
		return e.slots.Next(t.In(e.zone))
	}
	wall := onWall(t.In(e.zone), time.UTC)
	for {
		wall = e.slots.Next(wall)
		if slot := onWall(wall, e.zone); slot.After(t) || wall.IsZero() {
			return slot
		}
	}
}

// onWall is the moment when clocks in z show what t shows.
func onWall(t time.Time, z *time.Location) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, z)
}

// Run is a slot that comes.
type Run struct {
	Name string
	At   time.Time
	Kind tasks.Kind
}

// Next gives the next n runs of all entries behind t, in order of time.
func Next(entries []Entry, t time.Time, n int) []Run {
	var runs []Run
	next := make([]time.Time, len(entries))
	for i, e := range entries {
		next[i] = e.Next(t)
	}
	for len(runs) < n && len(entries) > 0 {
		first := 0
		for i := range next {
			if next[i].Before(next[first]) {
				first = i
			}
		}
		e := entries[first]
		runs = append(runs, Run{e.Name, next[first], e.payload.Kind()})
		next[first] = e.Next(next[first])
	}
	return runs
}

// Scheduler is a Service that enqueues what is due.
type Scheduler struct {
	entries []Entry
	client  *tasks.Client
	log     *slog.Logger
}

// New makes a scheduler; Run starts it.
func New(entries []Entry, client *tasks.Client, log *slog.Logger) *Scheduler {
	return &Scheduler{entries, client, log}
}

// retryEvery is how often a slot is tried again while the queue cannot take it.
const retryEvery = 5 * time.Second

// Run enqueues until ctx ends. Slots that pass while no scheduler runs are skipped;
// slots that Redis could not take are tried until the next one of their schedule.
func (s *Scheduler) Run(ctx context.Context) error {
	if len(s.entries) == 0 {
		return errors.New("no schedules")
	}
	next := make([]time.Time, len(s.entries))
	for i, e := range s.entries {
		next[i] = e.Next(time.Now())
	}
	for {
		now, wake := time.Now(), time.Time{}
		for i, e := range s.entries {
			if slot := next[i]; !slot.After(now) && s.fire(ctx, e, slot) || e.Next(slot).Before(now) {
				next[i] = e.Next(slot)
			}
			due := next[i]
			if !due.After(now) {
				due = now.Add(retryEvery)
			}
			if wake.IsZero() || due.Before(wake) {
				wake = due
			}
		}
		// At most a minute at a time: the clock may be set meanwhile.
		timer := time.NewTimer(min(time.Until(wake), time.Minute))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// fire enqueues one slot; false when it must be tried again.
func (s *Scheduler) fire(ctx context.Context, e Entry, slot time.Time) bool {
	key := fmt.Sprintf("schedule/%s/%s", e.Name, slot.UTC().Format(time.RFC3339))
	options := append(slices.Clip(e.options), tasks.WithIdempotencyKey(key))
	if e.ttl > 0 {
		options = append(options, tasks.WithTimeToLive(e.ttl))
	}
	accepted, err := s.client.Enqueue(ctx, e.payload, options...)
	if err != nil {
		s.log.Error("slot not enqueued", "schedule", e.Name, "slot", slot, "error", err)
		return errors.Is(err, tasks.ErrIdempotencyMismatch)
	}
	s.log.Info("slot enqueued", "schedule", e.Name, "slot", slot, "task", accepted.ID, "by_another", accepted.Existing)
	return true
}
