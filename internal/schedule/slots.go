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
	type coming struct {
		Entry
		at time.Time // zero when the entry has no slot any more
	}
	var all []*coming
	for _, e := range entries {
		all = append(all, &coming{e, e.Next(t)})
	}
	var runs []Slot
	for len(runs) < n {
		var soonest *coming
		for _, c := range all {
			if !c.at.IsZero() && (soonest == nil || c.at.Before(soonest.at)) {
				soonest = c
			}
		}
		if soonest == nil {
			break
		}
		runs = append(runs, Slot{soonest.Name, soonest.at.In(soonest.zone), soonest.zone.String(), string(soonest.Kind)})
		soonest.at = soonest.Next(soonest.at)
	}
	return runs
}
