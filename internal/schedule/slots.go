package schedule

import (
	"time"

	"github.com/robfig/cron/v3"
)

// Next is the first slot behind t; zero when there is none within some years. A
// schedule for certain hours goes by the clock on the wall: slots in the hour that is
// skipped in spring come as one, right when the clocks have gone forward; one in the
// hour that comes twice in autumn comes the first time. Hourly ones go by elapsed time.
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

// shown is what the clock on the wall shows at t, written as UTC, where no hour is
// skipped and none comes twice.
func shown(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// first is the first moment at which clocks in z show wall or, where they never do,
// the moment they were put forward.
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

// Next gives the next n runs of all entries behind t, in order of time.
func Next(entries []Entry, t time.Time, n int) []Run {
	var runs []Run
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
		runs = append(runs, Run{e.Name, next[soonest], e.payload.Kind()})
		next[soonest] = e.Next(next[soonest])
	}
	return runs
}
