package ui

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/monitor"
)

// gateRow is a gate as pages show it.
type gateRow struct {
	gate.State
	Deferred int        // tasks that wait outside of workers
	Rate     int        // calls of the last minute; -1 before there are two samples
	Until    *time.Time // closed until then; nil when it is open
}

// IsAccount reports whether it is the gate before all others.
func (g gateRow) IsAccount() bool { return g.Name == gate.Account }

// Allowed is the calls a minute that may pass now.
func (g gateRow) Allowed() int { return int(float64(g.Pace.PerMinute) * g.RateFactor) }

// Waiting is the tasks and callers that wait at the gate.
func (g gateRow) Waiting() int { return g.Interactive + g.Bulk + g.Deferred }

// Refusals is how often the API said too many requests or no capacity.
func (g gateRow) Refusals() int { return g.Throttled + g.Busy }

// fleet is the state of workers and gates.
type fleet struct {
	Report monitor.Report
	Gates  []gateRow
}

// fleetFor is the lifetime of the cached state that all pages share.
const fleetFor = 900 * time.Millisecond

// reportFor is the lifetime of its parts that need many commands.
const reportFor = 4 * time.Second

// fleetReader reads the fleet for all watchers of this process.
type fleetReader struct {
	mu       sync.Mutex
	fleet    fleet
	read     time.Time
	state    monitor.Fleet
	reported time.Time
	samples  []sample
}

// sample is the calls of each gate at a time.
type sample struct {
	at    time.Time
	calls map[string]int
}

// fleet returns the state of workers and gates, at most some seconds old.
func (u *UI) fleet(ctx context.Context) (_ fleet, err error) {
	r := &u.reader
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.read) < fleetFor {
		return r.fleet, nil
	}
	var states []gate.State
	if now.Sub(r.reported) < reportFor {
		if states, err = u.cfg.Gate.All(ctx); err != nil {
			return fleet{}, err
		}
	} else {
		if r.state, err = u.cfg.Monitor.Fleet(ctx, u.cfg.Gate); err != nil {
			return fleet{}, err
		}
		r.fleet.Report, states, r.reported = r.state.Report(), r.state.Gates, now
	}
	r.sampled(now, states)
	r.fleet.Gates = make([]gateRow, 0, len(states))
	for _, s := range states {
		g := gateRow{State: s, Deferred: r.state.DeferredAt(s.Name), Rate: r.rate(now, s)}
		if s.Closed > 0 {
			until := now.Add(s.Closed).UTC().Round(time.Second)
			g.Until = &until
		}
		r.fleet.Gates = append(r.fleet.Gates, g)
	}
	slices.SortStableFunc(r.fleet.Gates, func(a, b gateRow) int { return strings.Compare(order(a)+a.Name, order(b)+b.Name) })
	r.read = now
	return r.fleet, nil
}

// order puts the gate of the account first when it is closed, else last.
func order(g gateRow) string {
	switch {
	case !g.IsAccount():
		return "b"
	case g.Closed > 0 || g.Refused:
		return "a"
	}
	return "c"
}

// mostSamples is somewhat more than a minute of them.
const mostSamples = 70

func (r *fleetReader) sampled(now time.Time, states []gate.State) {
	calls := make(map[string]int, len(states))
	for _, s := range states {
		calls[s.Name] = s.Calls
	}
	r.samples = append(r.samples, sample{now, calls})
	r.samples = slices.DeleteFunc(r.samples, func(s sample) bool { return now.Sub(s.at) > time.Minute+2*time.Second })
	r.samples = r.samples[max(0, len(r.samples)-mostSamples):]
}

// rate returns the calls a minute since the oldest sample, or -1.
func (r *fleetReader) rate(now time.Time, s gate.State) int {
	span := now.Sub(r.samples[0].at)
	if span < 5*time.Second {
		return -1
	}
	return int(float64(max(s.Calls-r.samples[0].calls[s.Name], 0)) / span.Minutes())
}
