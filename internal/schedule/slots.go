package schedule

import (
	"time"

	"github.com/robfig/cron/v3"
)

// Next returns the first slot after t; zero when there is none within some years.
//
// A schedule for certain hours follows the local wall clock. Slots in the hour that is
// skipped in spring fire as one, right after the clocks went forward. A slot in the hour
// that is repeated in autumn fires the first time. Schedules for every hour follow elapsed
// time.
func (e Entry) Next(t time.Time) time.Time {
	const everyHour = 1 << 63 // cron's mark of a "*" field
	if s, ok := e.slots.(*cron.SpecSchedule); !ok || s.Hour&everyHour != 0 {
		return e.slots.Next(t.In(e.zone))
	}
	for wall := shown(t.In(e.zone)); ; {
		if wall = e.slots.Next(wall); wall.IsZero() {
			return time.Time{}
		}
		if slot := first(wall, e.zone); slot.After(t) {
			return slot
		}
	}
}

// shown returns the local wall clock time of t as a UTC time. UTC skips and repeats no
// hour.
func shown(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// first returns the first moment at which the wall clock in z shows wall. For a skipped
// time it returns the moment at which the clocks went forward.
func first(wall time.Time, z *time.Location) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, z)
	start, end := t.ZoneBounds()
	switch now := shown(t); {
	case now.After(wall):
		return start
	case now.Before(wall):
		return end
	case start.IsZero():
		return t
	}
	_, before := start.Add(-time.Second).Zone()
	_, after := t.Zone()
	if twin := t.Add(time.Duration(after-before) * time.Second); twin.Before(start) && before > after {
		return twin
	}
	return t
}

// Slot is a point in time at which a schedule fires.
type Slot struct {
	Name string    `json:"schedule"`
	At   time.Time `json:"at"`        // in the schedule's time zone
	Zone string    `json:"time_zone"` // name of that zone
	Kind string    `json:"kind"`
}

// Next returns the next n slots of all entries after t, in order of time.
func Next(entries []Entry, t time.Time, n int) []Slot {
	var runs []Slot
	next := make([]time.Time, len(entries))
	for i, e := range entries {
		next[i] = e.Next(t)
	}
	for len(runs) < n {
		soonest := -1
		for i, at := range next {
			if !at.IsZero() && (soonest < 0 || at.Before(next[soonest])) {
				soonest = i
			}
		}
		if soonest < 0 {
			break
		}
		e := entries[soonest]
		runs = append(runs, Slot{e.Name, next[soonest].In(e.zone), e.zone.String(), string(e.Kind)})
		next[soonest] = e.Next(next[soonest])
	}
	return runs
}
