package main

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"golang.org/x/sync/errgroup"
)

// limitCell is one fleet under one limit.
type limitCell struct {
	Way       string  `json:"way"`
	PerMinute int     `json:"per_minute"`
	Window    string  `json:"window"`
	Workers   int     `json:"workers"`
	Used      float64 `json:"used"`     // share of the limit, after the warm-up
	Calls     int     `json:"calls"`    // after the warm-up
	Refused   int     `json:"refused"`  // of these calls, answered 429
	Sent      int     `json:"sent"`     // all calls
	Done      int     `json:"done"`     // all tasks with an answer
	Attempts  float64 `json:"attempts"` // mean per task, from the results; 0 without results
	Commands  float64 `json:"commands"` // Redis commands per finished task, without enqueueing
	Runs      int     `json:"runs"`
	LeastUsed float64 `json:"least_used"` // lowest of all runs
	MostUsed  float64 `json:"most_used"`
	Compared  bool    `json:"compared"` // all ways are measured in this cell

	p    pace
	last time.Duration // length of the measurement, in whole windows of the emulator
	runs []limitCell   // repeated runs; the cell shows the median one
}

type limitFigures struct {
	WarmUp float64     `json:"warm_up_s"`
	Cells  []limitCell `json:"cells"`
}

// warmUp is excluded from the figures: fleets start and reach the limit for the first
// time.
const warmUp = 10 * time.Second

// latency is the emulator's answer time in measurements of the limit.
const latency = 100 * time.Millisecond

// The limits. The emulator's window is a fraction of a minute with the same fraction of
// the limit. This is stricter: 75 calls in each 15 s imply 300 in each minute.
var (
	slow   = pace{20, 30 * time.Second}
	middle = pace{300, 15 * time.Second}
	fast   = pace{3000, 15 * time.Second}
)

// measureLimit runs all fleets. Those with slow limits hardly use the machine and run in
// parallel, each with its own Redis. Fleets with fast limits run alone.
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

// windowsMeasured is how many whole windows of the emulator a run measures. A fleet that
// uses up a window at once and then waits would otherwise show the phase of its pause.
const windowsMeasured = 4

// runsCompared is how often each way runs the cells in which all ways are compared.
const runsCompared = 3

// limitGroups returns the groups of fleets that run in parallel.
func limitGroups(quick bool) [][]limitCell {
	runs := runsCompared
	if quick {
		runs = 1
	}
	cells := func(p pace, way, window string, workers ...int) []limitCell {
		var made []limitCell
		for _, n := range workers {
			made = append(made, limitCell{Way: way, PerMinute: p.PerMinute, Window: window, Workers: n, Runs: 1, p: p, last: windowsMeasured * p.Window})
		}
		return made
	}
	compared := func(p pace) []limitCell {
		var made []limitCell
		for _, way := range []string{ours, backoff, recipe, bullWindow, bullEvenly} {
			made = append(made, cells(p, way, "sliding", 4)...)
		}
		for i := range made {
			made[i].Compared, made[i].Runs = true, runs
		}
		return made
	}
	if quick {
		return append([][]limitCell{slices.Concat(compared(middle), cells(middle, ours, "fixed", 2), cells(middle, ours, "bucket", 2))},
			cells(fast, ours, "sliding", 4))
	}
	groups := [][]limitCell{compared(slow), compared(middle)}
	for _, c := range compared(fast) {
		groups = append(groups, []limitCell{c})
	}
	fleets := func(p pace) (all [][]limitCell) {
		for _, n := range []int{1, 2, 4, 8} {
			var made []limitCell
			for _, window := range []string{"sliding", "fixed", "bucket"} {
				if n != 4 || window != "sliding" { // all ways are compared in this cell
					made = append(made, cells(p, ours, window, n)...)
				}
			}
			all = append(all, made)
		}
		return all
	}
	slowFleets := fleets(slow)
	groups = append(groups, slices.Concat(slowFleets[:3]...), slowFleets[3])
	groups = append(groups, fleets(middle)...)
	for _, n := range []int{1, 8} {
		groups = append(groups, cells(fast, ours, "sliding", n))
	}
	return append(groups, cells(fast, ours, "fixed", 4), cells(fast, ours, "bucket", 4))
}

func (l *lab) runTogether(group []limitCell) error {
	var g errgroup.Group
	var filling sync.Mutex // fleets start one after the other, each with a full queue
	for i := range group {
		g.Go(func() error { return l.repeatCell(&group[i], &filling) })
	}
	return g.Wait()
}

// repeatCell runs a cell the configured number of times and keeps the median run.
func (l *lab) repeatCell(c *limitCell, filling *sync.Mutex) error {
	for range c.Runs {
		run := *c
		if err := l.runCell(&run, filling); err != nil {
			return err
		}
		c.runs = append(c.runs, run)
	}
	slices.SortFunc(c.runs, func(a, b limitCell) int { return cmp.Compare(a.Used, b.Used) })
	middle := c.runs[len(c.runs)/2]
	middle.LeastUsed, middle.MostUsed = c.runs[0].Used, c.runs[len(c.runs)-1].Used
	*c = middle
	return nil
}

// runCell lets one fleet work off a backlog and measures its calls after the warm-up.
func (l *lab) runCell(c *limitCell, filling *sync.Mutex) error {
	s, err := l.open(workersaitest.Options{
		Latency: latency, Window: c.Window, PerWindow: c.p.Window, Limits: map[string]int{"translation": c.p.perWindow()},
	})
	if err != nil {
		return err
	}
	defer s.close()
	// Three times the number of calls that the limit allows. So work never runs out, even
	// where many tasks wait in a long back-off.
	n := 3 * (c.p.perWindow() + int(float64(c.PerMinute)*(warmUp+c.last+10*time.Second).Minutes()))
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
	// The interval ends with the first call after the end, so that the last gap counts
	// too.
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
	if c.Way == ours {
		ids, err = s.fill(s.client(true), n, func(i int) tasks.Request { return translate(textOf(i), tasks.Bulk) })
	} else {
		err = s.fillRival(c.Way, n)
	}
	if err != nil {
		return nil, before, err
	}
	if before, err = s.redisUse(); err != nil {
		return nil, before, err
	}
	if c.Way == ours {
		return ids, before, s.workers(c.Workers, tasks.KindTranslation, c.PerMinute)
	}
	return nil, before, s.rivals(c.Way, c.Workers, c.p)
}

// judge computes the figures from the log.
func (c *limitCell) judge(calls []workersaitest.Request, from, to, end time.Time) {
	c.Sent, c.Done = len(calls), count(calls, answered)
	measured := between(calls, from, to)
	c.Calls, c.Refused = len(measured), count(measured, refused)
	begun, ended := done(calls, from, end), done(calls, to, end)
	c.Used = (ended - begun) * float64(c.p.interval()) / float64(to.Sub(from))
}

// done returns how many calls were answered until a time. Between two calls the figure
// grows linearly. So a slow pace is not rounded to whole calls, and a pause counts in
// full. Without a later call, the next one is assumed to come at the end.
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

// attempts returns the mean over the existing results.
func (s *site) attempts(ids []string) (float64, error) {
	sum, n := 0, 0
	for _, id := range ids {
		if _, err := s.store.Head(s.ctx, objects.ResultKey(objects.DefaultTenant, id)); err != nil {
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
		About: fmt.Sprintf(`A backlog of one-call tasks (translation, lane bulk) of three times what the limit lets through, one model, answers after %s.
What is shown begins %.0f s after the first call and lasts four whole windows. *Used* is answered calls as part of what the limit allows in that time; *429* is the part of
all calls that were refused, with their number; *calls a task* is calls sent for each task done, refused ones included; *Redis commands a task* leaves the enqueueing out, for every way.
In the first table every way has the same cell, 4 workers and a sliding window, in %d runs: the middle one is shown, with the least and the most used. The second has neuronmill's other fleets, one run each.

The limits are true paces (20 a minute is one call in 3 s), but the emulator counts in shorter windows with the same part of the limit,
10 in 30 s, 75 in 15 s and 750 in 15 s, which is the harder task. Workers are processes with %d slots each. neuronmill is told the limit in requests a minute
and nothing else. asynq and BullMQ run as their documentation says: asynq's own exponential backoff (25 retries); the wiki's RateLimitError with a
limiter in each process that has its part of the limit, burst of 3 s; BullMQ's limiter over all workers as the window of the API and as one call an interval, with
queue.rateLimit on a 429. asynq's servers ask for new and delayed tasks as often as neuronmill's do.`, latency, f.WarmUp, runsCompared, slots),
		Plot: &report.Plot{Title: "Limit used, sliding window, 4 workers", Y: "% of the limit", MaxY: 130},
	}
	s.Tables = []report.Table{f.table(true), f.table(false)}
	s.Checks = f.checks()
	ways := []string{ours, backoff, recipe, bullWindow, bullEvenly}
	for _, way := range ways {
		series := report.Series{Name: way}
		s.Plot.Labels = nil
		for _, p := range []pace{slow, middle, fast} {
			s.Plot.Labels = append(s.Plot.Labels, fmt.Sprintf("%d a minute", p.PerMinute))
			used := 0.0
			for _, c := range f.Cells {
				if c.Way == way && c.PerMinute == p.PerMinute && c.Compared {
					used = 100 * c.Used
				}
			}
			series.Y = append(series.Y, used)
		}
		s.Plot.Bars = append(s.Plot.Bars, series)
	}
	return s
}

func (f *limitFigures) table(compared bool) report.Table {
	t := report.Table{Head: []string{"way", "a minute", "window", "workers", "used", "429", "calls a task", "Redis commands a task"}}
	for _, c := range f.Cells {
		if c.Compared != compared {
			continue
		}
		used := percent(c.Used)
		if c.Runs > 1 {
			used += fmt.Sprintf(" (%s to %s)", percent(c.LeastUsed), percent(c.MostUsed))
		}
		commands := "-"
		if c.Commands > 0 {
			commands = fmt.Sprintf("%.0f", c.Commands)
		}
		t.Rows = append(t.Rows, []string{
			c.Way, fmt.Sprint(c.PerMinute), c.Window, fmt.Sprint(c.Workers), used,
			fmt.Sprintf("%s (%d of %d)", percent(share(c.Refused, c.Calls)), c.Refused, c.Calls),
			fmt.Sprintf("%.2f", float64(c.Sent)/float64(max(c.Done, 1))), commands,
		})
	}
	return t
}

func (f *limitFigures) checks() []report.Check {
	least, most, attempts := 2.0, 0.0, 0.0
	refusedInAll, callsInAll := 0, 0
	var leastAt, mostAt limitCell
	for _, c := range f.Cells {
		if c.Way != ours {
			continue
		}
		refusedInAll, callsInAll = refusedInAll+c.Refused, callsInAll+c.Calls
		if c.LeastUsed < least {
			least, leastAt = c.LeastUsed, c
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
			Got: fmt.Sprintf("%s of %d calls in the worst (%s), %d of %d in all fleets", percent(most), mostAt.Calls, mostAt.where(), refusedInAll, callsInAll)},
		{What: "attempts a task", Target: "1.00", Pass: attempts < 1.005, Got: fmt.Sprintf("%.2f in the worst", attempts)},
	}
}

// underWay returns how many calls may be unanswered when the log was read.
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
