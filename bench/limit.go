package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"golang.org/x/sync/errgroup"
)

// limitCell is one fleet at one limit.
type limitCell struct {
	Way       string  `json:"way"`
	PerMinute int     `json:"per_minute"`
	Window    string  `json:"window"`
	Workers   int     `json:"workers"`
	Used      float64 `json:"used"`     // of the limit, after the warm-up
	Calls     int     `json:"calls"`    // after the warm-up
	Refused   int     `json:"refused"`  // of these, answered 429
	Sent      int     `json:"sent"`     // all calls
	Done      int     `json:"done"`     // all tasks that were answered
	Attempts  float64 `json:"attempts"` // a task, as its result says; 0 where there are none
	Commands  float64 `json:"commands"` // of Redis, a task done

	p    pace
	last time.Duration // of the measurement
}

type limitFigures struct {
	WarmUp float64     `json:"warm_up_s"`
	Cells  []limitCell `json:"cells"`
}

// warmUp is left out of the figures: fleets start, and limits are met for the first time.
const warmUp = 10 * time.Second

// latency of the emulator's answers where the limit is what counts.
const latency = 100 * time.Millisecond

// The limits. The emulator's window is a part of a minute with the same part of the
// limit, which is the harder task: whoever keeps 75 in each 15 s keeps 300 in each minute.
var (
	slow   = pace{20, 30 * time.Second}
	middle = pace{300, 15 * time.Second}
	fast   = pace{3000, 15 * time.Second}
)

// measureLimit runs all fleets. Those of slow limits hardly use the machine and run
// side by side, each with a Redis of its own; fast ones run alone.
func measureLimit(l *lab) (figures, error) {
	f := &limitFigures{WarmUp: warmUp.Seconds()}
	for _, group := range limitGroups(l.quick) {
		l.say("limit: %d fleets at %d a minute, %s", len(group), group[0].PerMinute, warmUp+group[0].last)
		if err := l.runTogether(group); err != nil {
			return nil, err
		}
		for _, c := range group {
			l.say("  %-42s %-8s %d workers: %5.1f %% used, %d of %d refused, %.2f calls a task",
				c.Way, c.Window, c.Workers, 100*c.Used, c.Refused, c.Calls, float64(c.Sent)/float64(max(c.Done, 1)))
		}
		f.Cells = append(f.Cells, group...)
	}
	return f, nil
}

// limitGroups are the fleets that run side by side.
func limitGroups(quick bool) [][]limitCell {
	cells := func(p pace, last time.Duration, way, window string, workers ...int) []limitCell {
		var made []limitCell
		for _, n := range workers {
			made = append(made, limitCell{Way: way, PerMinute: p.PerMinute, Window: window, Workers: n, p: p, last: last})
		}
		return made
	}
	windows := []string{"sliding", "fixed", "bucket"}
	if quick {
		last := 30 * time.Second
		return [][]limitCell{slices.Concat(
			cells(middle, last, ours, "sliding", 1, 4), cells(middle, last, ours, "fixed", 2), cells(middle, last, ours, "bucket", 2),
			cells(middle, last, backoff, "sliding", 4), cells(middle, last, recipe, "sliding", 4), cells(middle, last, bullWindow, "sliding", 4),
		), cells(fast, last/2, ours, "sliding", 4)}
	}
	each := func(p pace, last time.Duration, workers ...int) []limitCell {
		var made []limitCell
		for _, n := range workers {
			for _, w := range windows {
				made = append(made, cells(p, last, ours, w, n)...)
			}
		}
		return made
	}
	others := func(p pace, last time.Duration) []limitCell {
		var made []limitCell
		for _, way := range []string{backoff, recipe, bullWindow, bullEvenly} {
			made = append(made, cells(p, last, way, "sliding", 4)...)
		}
		return made
	}
	groups := [][]limitCell{each(slow, 60*time.Second, 1, 2, 4), slices.Concat(each(slow, 60*time.Second, 8), others(slow, 60*time.Second))}
	for _, n := range []int{1, 2, 4, 8} {
		groups = append(groups, each(middle, 20*time.Second, n))
	}
	groups = append(groups, others(middle, 30*time.Second))
	alone := slices.Concat(each(fast, 10*time.Second, 1, 2, 4, 8), others(fast, 15*time.Second))
	return append(groups, slices.Collect(slices.Chunk(alone, 1))...)
}

func (l *lab) runTogether(group []limitCell) error {
	var g errgroup.Group
	var filling sync.Mutex // so that fleets start one after the other, each with a full queue
	for i := range group {
		g.Go(func() error { return l.runCell(&group[i], &filling) })
	}
	return g.Wait()
}

// runCell has one fleet work off a backlog, and looks at its calls once it has warmed up.
func (l *lab) runCell(c *limitCell, filling *sync.Mutex) error {
	s, err := l.open(workersaitest.Options{
		Latency: latency, Window: c.Window, PerWindow: c.p.Window, Limits: map[string]int{"translation": c.p.perWindow()},
	})
	if err != nil {
		return err
	}
	defer s.close()
	// More than the limit lets through, so that there is always work: a bucket and a
	// fixed window give up to one window more.
	n := 2*c.p.perWindow() + int(float64(c.PerMinute)*(warmUp+c.last+10*time.Second).Minutes()*1.1)
	filling.Lock()
	ids, before, err := s.startFleet(c, n)
	filling.Unlock()
	if err != nil {
		return err
	}
	if err := s.until("the first call", time.Minute, func() (bool, error) { return len(s.api.Requests()) > 0, s.alive() }); err != nil {
		return err
	}
	from := s.api.Requests()[0].At.Add(warmUp)
	to := from.Add(c.last)
	// The time until the next call counts too: it ends with the first call after the end.
	end := to.Add(max(3*time.Second, 3*c.p.interval()))
	err = s.until("the end", time.Until(end)+time.Minute, func() (bool, error) {
		calls := s.api.Requests()
		over := count(between(calls, to, end), answered) > 0
		return over || time.Now().After(end), s.alive()
	})
	if err != nil {
		return err
	}
	use, err := s.redisUse()
	if err != nil {
		return err
	}
	c.judge(s.api.Requests(), from, to, end)
	c.Commands = float64(use.since(before).commands) / float64(max(c.Done, 1))
	s.stopWorkers()
	c.Attempts, err = s.attempts(ids)
	return err
}

func (s *site) startFleet(c *limitCell, n int) (ids []string, before redisUse, err error) {
	if c.Way != ours {
		return nil, before, s.rivals(c.Way, c.Workers, n, c.p)
	}
	ids, err = s.fill(s.client(true), n, func(i int) tasks.Request { return translate(textOf(i), tasks.Bulk) })
	if err != nil {
		return nil, before, err
	}
	if before, err = s.redisUse(); err != nil {
		return nil, before, err
	}
	return ids, before, s.workers(c.Workers, tasks.KindTranslation, c.PerMinute)
}

// judge computes the figures from the log.
func (c *limitCell) judge(calls []workersaitest.Request, from, to, end time.Time) {
	c.Sent, c.Done = len(calls), count(calls, answered)
	measured := between(calls, from, to)
	c.Calls, c.Refused = len(measured), count(measured, refused)
	begun, ended := done(calls, from, end), done(calls, to, end)
	c.Used = (ended - begun) * float64(c.p.interval()) / float64(to.Sub(from))
}

// done is how many calls were answered until a time. Between two calls the figure grows
// evenly, so that a slow pace is not rounded to whole calls and a pause counts in full;
// when none came after it until the end, the next one is taken to come then.
func done(calls []workersaitest.Request, at, end time.Time) float64 {
	n, last, next := 0, time.Time{}, end
	for _, r := range calls {
		if !answered(r) {
			continue
		}
		if r.At.After(at) {
			next = r.At
			break
		}
		n, last = n+1, r.At
	}
	if n == 0 {
		return 0
	}
	return float64(n) + float64(at.Sub(last))/float64(next.Sub(last))
}

// attempts is the mean over the results there are.
func (s *site) attempts(ids []string) (float64, error) {
	sum, n := 0, 0
	for _, id := range ids {
		if _, err := s.store.Head(s.ctx, tasks.ResultKey("default", id)); err != nil {
			continue
		}
		r, err := s.client(true).Result(s.ctx, id)
		if err != nil {
			return 0, err
		}
		sum, n = sum+r.Attempts, n+1
	}
	if n == 0 {
		return 0, nil
	}
	return float64(sum) / float64(n), nil
}

// Section implements figures.
func (f *limitFigures) Section() report.Section {
	s := report.Section{
		Title: "Limit used, and calls refused",
		About: fmt.Sprintf(`A backlog of one-call tasks (translation, lane bulk) that is always longer than the limit lets through, one model, answers after %s.
What is shown begins %.0f s after the first call. *Used* is answered calls as part of what the limit allows in that time; *429* is the part of
all calls that were refused; *calls a task* is calls sent for each task done, refused ones included.

The limits are true paces (20 a minute is one call in 3 s), but the emulator counts in shorter windows with the same part of the limit,
10 in 30 s, 75 in 15 s and 750 in 15 s, which is the harder task. Workers are processes with %d slots each. neuronmill is told the limit in requests a minute
and nothing else. asynq and BullMQ run as their documentation says: asynq's own exponential backoff (25 retries); the wiki's RateLimitError with a
limiter in each process that has its part of the limit, burst of 3 s; BullMQ's limiter over all workers as the window of the API and as one call an interval, with
queue.rateLimit on a 429.`, latency, f.WarmUp, slots),
		Plot: &report.Plot{Title: "Limit used, sliding window, 4 workers", Y: "% of the limit", MaxY: 130},
	}
	s.Tables = []report.Table{f.table()}
	s.Checks = f.checks()
	ways := []string{ours, backoff, recipe, bullWindow, bullEvenly}
	for _, way := range ways {
		series := report.Series{Name: way}
		s.Plot.Labels = nil
		for _, p := range []pace{slow, middle, fast} {
			s.Plot.Labels = append(s.Plot.Labels, fmt.Sprintf("%d a minute", p.PerMinute))
			used := 0.0
			for _, c := range f.Cells {
				if c.Way == way && c.PerMinute == p.PerMinute && c.Window == "sliding" && c.Workers == 4 {
					used = 100 * c.Used
				}
			}
			series.Y = append(series.Y, used)
		}
		s.Plot.Bars = append(s.Plot.Bars, series)
	}
	return s
}

func (f *limitFigures) table() report.Table {
	t := report.Table{Head: []string{"way", "a minute", "window", "workers", "used", "429", "calls a task", "Redis commands a task"}}
	for _, c := range f.Cells {
		commands := "-"
		if c.Commands > 0 {
			commands = fmt.Sprintf("%.0f", c.Commands)
		}
		t.Rows = append(t.Rows, []string{
			c.Way, fmt.Sprint(c.PerMinute), c.Window, fmt.Sprint(c.Workers), percent(c.Used),
			fmt.Sprintf("%s (%d of %d)", percent(share(c.Refused, c.Calls)), c.Refused, c.Calls),
			fmt.Sprintf("%.2f", float64(c.Sent)/float64(max(c.Done, 1))), commands,
		})
	}
	return t
}

func (f *limitFigures) checks() []report.Check {
	least, most, attempts := 2.0, 0.0, 0.0
	var leastAt, mostAt limitCell
	for _, c := range f.Cells {
		if c.Way != ours {
			continue
		}
		if c.Used < least {
			least, leastAt = c.Used, c
		}
		if r := share(c.Refused, c.Calls); r >= most {
			most, mostAt = r, c
		}
		attempts = max(attempts, c.Attempts, share(c.Sent, c.Done+c.underWay()))
	}
	return []report.Check{
		{What: "limit used, every fleet of neuronmill", Target: "at least 97 %", Pass: least >= 0.97, Loaded: true,
			Got: fmt.Sprintf("%s in the worst (%s)", percent(least), leastAt.where())},
		{What: "calls answered 429 after the first 10 s", Target: "at most 0.1 %", Pass: most <= 0.001,
			Got: fmt.Sprintf("%s in the worst (%s)", percent(most), mostAt.where())},
		{What: "attempts a task", Target: "1.00", Pass: attempts < 1.005, Got: fmt.Sprintf("%.2f in the worst", attempts)},
	}
}

// underWay is how many calls may not have been answered when the log was read.
func (c limitCell) underWay() int { return int(latency/(time.Minute/time.Duration(c.PerMinute))) + 1 }

func (c limitCell) where() string {
	return fmt.Sprintf("%d a minute, %s, %d workers", c.PerMinute, c.Window, c.Workers)
}

func share(part, of int) float64 { return float64(part) / float64(max(of, 1)) }

func percent(x float64) string {
	if x > 0 && x < 0.01 {
		return fmt.Sprintf("%.2f %%", 100*x)
	}
	return fmt.Sprintf("%.1f %%", 100*x)
}
