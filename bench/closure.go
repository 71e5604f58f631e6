package main

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// closing describes a fleet's calls after a 429 with Retry-After.
type closing struct {
	Way      string    `json:"way"`
	Workers  int       `json:"workers"`
	InFlight int       `json:"in_flight"` // calls within the first tenth of a second: sent before the 429 was known
	During   int       `json:"during"`    // calls in the rest of the pause
	Lost     float64   `json:"lost_s"`    // delay of the 60th call after the pause
	At       []float64 `json:"at_s"`      // of all calls, from the 429
}

type closureFigures struct {
	PerMinute  int       `json:"per_minute"`
	RetryAfter float64   `json:"retry_after_s"`
	Closings   []closing `json:"closings"`
}

const (
	retryAfter = 3 * time.Second
	onTheWay   = 100 * time.Millisecond
	afterwards = 60               // the 60th call after the pause shows the time lost
	patience   = 20 * time.Second // wait for a fleet with fewer calls
)

func measureClosure(l *lab) (figures, error) {
	f := &closureFigures{PerMinute: 1200, RetryAfter: retryAfter.Seconds()}
	ways := []string{ours, recipe, bullEvenly}
	for _, way := range ways {
		c := closing{Way: way, Workers: 8}
		if err := l.closing(&c, pace{f.PerMinute, time.Minute}); err != nil {
			return nil, err
		}
		l.say("closure: %s: %d calls during the pause, %.2f s lost beyond it", way, c.During, c.Lost)
		f.Closings = append(f.Closings, c)
	}
	return f, nil
}

func (l *lab) closing(c *closing, p pace) error {
	s, err := l.open(workersaitest.Options{NoLimits: true, Latency: 20 * time.Millisecond})
	if err != nil {
		return err
	}
	defer s.close()
	if _, _, err := s.startFleet(&limitCell{Way: c.Way, Workers: c.Workers, PerMinute: p.PerMinute, p: p}, 150*p.PerMinute/60); err != nil {
		return err
	}
	settled := 5 * p.PerMinute / 60
	err = s.until("a fleet at its pace", time.Minute, func() (bool, error) {
		return len(s.api.Requests()) >= settled && s.api.Requests()[0].At.Before(time.Now().Add(-5*time.Second)), s.alive()
	})
	if err != nil {
		return err
	}
	s.api.Fault(workersaitest.Fault{
		From: 1, To: 1, Code: 3021, Header: http.Header{"Retry-After": {fmt.Sprint(retryAfter.Seconds())}},
	})
	var shut int
	err = s.until("the pause and what follows", time.Minute, func() (bool, error) {
		calls := s.api.Requests()
		if shut = slices.IndexFunc(calls, refused); shut < 0 {
			return false, s.alive()
		}
		later := calls[shut].At.Add(retryAfter)
		return len(between(calls, later, time.Now())) > afterwards && time.Since(later) > 3*time.Second || time.Since(later) > patience, s.alive()
	})
	if err != nil {
		return err
	}
	calls := s.api.Requests()
	at := calls[shut].At
	c.InFlight = len(between(calls, at, at.Add(onTheWay))) - 1
	c.During = len(between(calls, at.Add(onTheWay), at.Add(retryAfter)))
	c.Lost = (patience - (afterwards-1)*p.interval()).Seconds()
	if later := between(calls, at.Add(retryAfter), time.Now()); len(later) >= afterwards {
		c.Lost = (later[afterwards-1].At.Sub(at) - retryAfter - (afterwards-1)*p.interval()).Seconds()
	}
	for _, r := range between(calls, at.Add(-2*time.Second), at.Add(retryAfter+3*time.Second)) {
		c.At = append(c.At, r.At.Sub(at).Seconds())
	}
	return nil
}

// Section implements figures.
func (f *closureFigures) Section() report.Section {
	s := report.Section{
		Title: "A 429 with Retry-After",
		About: fmt.Sprintf(`A fleet at %d a minute with work enough; one call is answered 429 with a Retry-After of %.0f s. *In flight* are calls that arrive within %s of that answer,
on their way already; *during the pause* are all later ones until it is over. *Lost beyond the pause* is how much later than the pause and the pace explain the %dth call after it came
(less than nothing where the pace is made up for).`, f.PerMinute, f.RetryAfter, onTheWay, afterwards),
		Plot: &report.Plot{Title: "Calls around a 429 with Retry-After: 3", X: "seconds since the 429"},
	}
	t := report.Table{Head: []string{"way", "workers", "in flight", "calls during the pause", "lost beyond the pause"}}
	for i, c := range f.Closings {
		t.Rows = append(t.Rows, []string{c.Way, fmt.Sprint(c.Workers), fmt.Sprint(c.InFlight), fmt.Sprint(c.During), fmt.Sprintf("%.2f s", c.Lost)})
		series := report.Series{Name: c.Way, X: c.At, Y: slices.Repeat([]float64{float64(len(f.Closings) - 1 - i)}, len(c.At))}
		s.Plot.Points = append(s.Plot.Points, series)
		s.Plot.Rows = slices.Insert(s.Plot.Rows, 0, c.Way)
		if c.Way == ours {
			s.Checks = []report.Check{{
				What: fmt.Sprintf("calls during a pause of %.0f s, %d workers", f.RetryAfter, c.Workers), Target: "0",
				Got: fmt.Sprintf("%d, %.2f s lost beyond the pause", c.During, c.Lost), Pass: c.During == 0,
			}}
		}
	}
	s.Tables = []report.Table{t}
	return s
}
