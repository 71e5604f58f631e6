package history

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/tasks"
)

// Observer returns an observer that counts the tasks that finish, and a function that
// writes the rest and ends it. The counts are written together every two seconds. A failure
// to write is logged and fails no task.
func (h *History) Observer(log *slog.Logger) (observer tasks.Observer, stop func()) {
	c := &counter{history: h, log: log, sums: map[place]*Counts{}, quit: make(chan struct{}), done: make(chan struct{})}
	go c.run()
	return c.observe, sync.OnceFunc(func() {
		close(c.quit)
		<-c.done
	})
}

// place is where counts are added.
type place struct {
	tenant string
	minute time.Time
}

// counter sums the tasks that finish until they are written.
type counter struct {
	history *History
	log     *slog.Logger
	quit    chan struct{}
	done    chan struct{}

	mu   sync.Mutex
	sums map[place]*Counts
}

// mostPlaces bounds the memory while Redis takes no writes.
const mostPlaces = 10_000

func (c *counter) observe(e tasks.Event) {
	if e.Type != tasks.EventFinished || e.Outcome == "" || e.Repeated {
		return
	}
	more := Counts{Neurons: e.Neurons}
	if tasks.Status(e.Outcome) == tasks.Completed {
		more.Completed = 1
	} else {
		more.Failed = 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(place{e.Tenant, e.Time.Truncate(time.Minute)}, more)
}

// add adds counts; the caller holds the mutex.
func (c *counter) add(at place, more Counts) {
	sum := c.sums[at]
	if sum == nil {
		if len(c.sums) >= mostPlaces {
			return
		}
		sum = &Counts{}
		c.sums[at] = sum
	}
	sum.Add(more)
}

func (c *counter) run() {
	defer close(c.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.quit:
			c.flush()
			return
		case <-tick.C:
			c.flush()
		}
	}
}

// flush writes the sums. Those that Redis did not take are tried again with the next ones.
func (c *counter) flush() {
	c.mu.Lock()
	sums := c.sums
	c.sums = map[place]*Counts{}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), flushEvery)
	defer cancel()
	for at, sum := range sums {
		if err := c.history.Add(ctx, at.tenant, at.minute, *sum); err != nil {
			c.log.Debug("the history waits for Redis", "error", err)
			c.mu.Lock()
			c.add(at, *sum)
			c.mu.Unlock()
		}
	}
}

// Sampler counts the calls of the fleet and of each gate from the counters of the gates, and
// notes when gates close and open. It is a job of the leader.
type Sampler struct {
	History *History
	Gate    *gate.Gate

	last   map[string]gate.State // by name, at the last sample
	at     time.Time             // of the last sample
	closed map[string]Closure    // of the gates that are closed; nil before the first sample
}

// SampleEvery is how often Sample should run.
const SampleEvery = 5 * time.Second

// Sample adds the calls since the sample before. The first sample of a process only looks.
func (s *Sampler) Sample(ctx context.Context) (next time.Duration, err error) {
	states, err := s.Gate.States(ctx)
	if err != nil {
		return 0, err
	}
	now, counts, first := time.Now(), Counts{}, s.last == nil
	seen := make(map[string]gate.State, len(states))
	var samples []gateSample
	for _, g := range states {
		seen[g.Name] = g
		if g.Pace.Source == "" { // it is no model's, and its calls are those of models
			continue
		}
		before := s.last[g.Name] // of a gate that was not used before: zero
		one := gateSample{name: g.Name, pace: -1, calls: max(g.Calls-before.Calls, 0), throttled: max(g.Throttled+g.Busy-before.Throttled-before.Busy, 0)}
		counts.Calls += one.calls
		counts.Throttled += one.throttled
		if one.calls > 0 || allowed(g) != allowed(before) {
			one.pace = allowed(g)
		}
		if one.calls > 0 || one.throttled > 0 || one.pace >= 0 {
			samples = append(samples, one)
		}
	}
	// After a pause the calls were made soon after the sample before it.
	at := now
	if now.Sub(s.at) > 4*SampleEvery {
		at = s.at
	}
	if !first && (counts.Calls > 0 || counts.Throttled > 0) {
		if err := s.History.Add(ctx, Fleet, at, counts); err != nil {
			return 0, err
		}
	}
	s.last, s.at = seen, now
	if !first {
		if err := s.History.addGates(ctx, at, samples, nil, nil); err != nil {
			return 0, err
		}
	}
	return 0, s.closures(ctx, now, seen)
}

// closures notes which gates have closed and opened since the sample before.
func (s *Sampler) closures(ctx context.Context, now time.Time, seen map[string]gate.State) (err error) {
	if s.closed == nil {
		if s.closed, err = s.History.closed(ctx); err != nil {
			return err
		}
	}
	var began, ended []Closure
	for name, g := range seen {
		if _, known := s.closed[name]; !known && isClosed(g) {
			began = append(began, Closure{Gate: name, Why: g.Why[:min(len(g.Why), mostWhy)], From: now.UTC().Truncate(time.Second)})
		}
	}
	for name, c := range s.closed {
		if !isClosed(seen[name]) { // a gate that is gone has no state, which counts as open
			c.Until = now.UTC().Truncate(time.Second)
			ended = append(ended, c)
		}
	}
	if err := s.History.addGates(ctx, now, nil, began, ended); err != nil {
		s.closed = nil
		return err
	}
	for _, c := range began {
		s.closed[c.Gate] = c
	}
	for _, c := range ended {
		delete(s.closed, c.Gate)
	}
	return nil
}
