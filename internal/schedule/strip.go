package schedule

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Past is a slot that was due, and its run. A slot without a run was missed: the schedule was
// paused, or no scheduler ran.
type Past struct {
	Slot time.Time
	Run  *Run // nil when the slot was missed
}

// Strip returns the latest n slots that were due, with the runs by hand between them, oldest
// first. Runs are the latest ones, newest first, as Stored.History returns them. A slot of the
// last five minutes without a run is left out, because its run may still come.
func (s *Schedule) Strip(runs []Run, now time.Time, n int) []Past {
	strip := make([]Past, 0, 2*n)
	fired := map[int64]bool{}
	for i, r := range runs[:min(len(runs), n)] {
		strip = append(strip, Past{r.Slot, &runs[i]})
		fired[r.Slot.Unix()] = true
	}
	if e, err := s.Check(); err == nil {
		from, until := s.CreatedAt, now.Add(-onTime)
		if len(runs) >= n && runs[n-1].Slot.After(from) {
			from = runs[n-1].Slot // older slots have no place in the strip
		}
		for _, slot := range e.due(from, until, n) {
			if !fired[slot.Unix()] {
				strip = append(strip, Past{Slot: slot})
			}
		}
	}
	slices.SortFunc(strip, func(a, b Past) int { return a.Slot.Compare(b.Slot) })
	return strip[max(0, len(strip)-n):]
}

// longestBack bounds how far due looks back for slots of rare schedules.
const longestBack = 4 * 366 * 24 * time.Hour

// due returns the last n slots after one time and up to another, oldest first. It looks back in
// growing steps, so that it computes few slots more than it returns.
func (e Entry) due(from, until time.Time, n int) []time.Time {
	for back := time.Hour; ; back *= 4 {
		start := until.Add(-back)
		last := back > longestBack
		if start.Before(from) {
			start, last = from, true
		}
		found := make([]time.Time, 0, 2*n)
		for at := e.Next(start); !at.IsZero() && !at.After(until); at = e.Next(at) {
			if len(found) == 2*n {
				found = append(found[:0], found[n:]...)
			}
			found = append(found, at)
		}
		if last || len(found) >= n {
			return found[max(0, len(found)-n):]
		}
	}
}

// Coming returns the next n slots in the schedule's time zone, none while it is paused.
func (s *Schedule) Coming(now time.Time, n int) []Slot {
	e, err := s.Check()
	if err != nil || s.Paused {
		return nil
	}
	return Next([]Entry{e}, now, n)
}

// Overview is a schedule with its latest runs, newest first.
type Overview struct {
	Schedule
	Runs []Run
}

// Look returns a schedule with its latest runs, at most n of them and at least one.
func (s *Stored) Look(ctx context.Context, name string, n int) (*Overview, error) {
	d, now, err := s.read(ctx, name)
	if err != nil {
		return nil, err
	}
	found := &Overview{Schedule: Schedule{Definition: d.Definition, CreatedAt: d.CreatedAt, Paused: now.Paused}}
	if next := found.Coming(time.Now(), 1); len(next) > 0 {
		found.Next = next[0].At
	}
	found.Runs, err = s.History(ctx, name, max(n, 1))
	if len(found.Runs) > 0 {
		found.Last = &found.Runs[0]
	}
	return found, err
}

// Page returns up to n schedules whose names come after another one, in the order of their
// names, each with its latest runs. next is the name to continue after; empty at the end.
func (s *Stored) Page(ctx context.Context, after string, n, runs int) (page []*Overview, next string, err error) {
	names, err := s.names(ctx)
	if err != nil {
		return nil, "", err
	}
	slices.Sort(names)
	at, found := slices.BinarySearch(names, after)
	if found {
		at++
	}
	if names = names[at:]; len(names) > n {
		names, next = names[:n], names[n-1]
	}
	page = make([]*Overview, len(names))
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(readsAtOnce)
	for i, name := range names {
		g.Go(func() (err error) {
			page[i], err = s.Look(inner, name, runs)
			if errors.Is(err, ErrNotFound) {
				return nil // removed meanwhile
			}
			return err
		})
	}
	err = g.Wait()
	return slices.DeleteFunc(page, func(one *Overview) bool { return one == nil }), next, err
}

// RunCache keeps runs that have ended, which never change, so that a page of many schedules
// reads each run once. It is safe for concurrent use; nil keeps nothing.
type RunCache struct {
	Most int // runs; 0 means 20,000

	mu   sync.Mutex
	runs map[string]Run // by the key of their object
}

func (c *RunCache) get(key string) (Run, bool) {
	if c == nil {
		return Run{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.runs[key]
	return r, ok
}

func (c *RunCache) put(key string, r Run) {
	if c == nil || !r.ended() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs == nil || len(c.runs) >= cmp.Or(c.Most, 20_000) {
		c.runs = map[string]Run{}
	}
	c.runs[key] = r
}
