package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// starts holds the times from enqueue to call of interactive tasks.
type starts struct {
	Behind int       `json:"behind"` // bulk tasks that waited
	Used   float64   `json:"used"`   // share of the limit used meanwhile, bulk included
	MS     []float64 `json:"ms"`     // sorted
}

type latencyFigures struct {
	PerMinute int      `json:"per_minute"`
	Workers   int      `json:"workers"`
	Runs      []starts `json:"runs"`
}

func measureLatency(l *lab) (figures, error) {
	f := &latencyFigures{PerMinute: middle.PerMinute, Workers: 4}
	samples, behind := 100, 100_000
	if l.quick {
		samples, behind = 20, 20_000
	}
	for _, n := range []int{0, behind} {
		r, err := l.starts(f.Workers, n, samples)
		if err != nil {
			return nil, err
		}
		l.say("latency behind %d: p50 %.0f ms, p95 %.0f ms", n, percentile(r.MS, 50), percentile(r.MS, 95))
		f.Runs = append(f.Runs, r)
	}
	return f, nil
}

// starts enqueues interactive tasks at irregular times and finds the time of each call in
// the emulator's log. Both clocks are this machine's.
func (l *lab) starts(workers, behind, samples int) (starts, error) {
	r := starts{Behind: behind}
	s, err := l.open(workersaitest.Options{Latency: latency, PerWindow: middle.Window, Limits: map[string]int{"translation": middle.perWindow()}})
	if err != nil {
		return r, err
	}
	defer s.close()
	client := s.client(true)
	if _, err := s.fill(client, behind, func(i int) tasks.Request { return translate(textOf(i), tasks.Bulk) }); err != nil {
		return r, err
	}
	if err := s.workers(workers, tasks.KindTranslation, middle.PerMinute); err != nil {
		return r, err
	}
	if err := l.sleep(warmUp); err != nil {
		return r, err
	}
	enqueued := map[string]time.Time{}
	from := time.Now()
	for i := range samples {
		if err := l.sleep(300*time.Millisecond + rand.N(700*time.Millisecond)); err != nil {
			return r, err
		}
		text := fmt.Sprintf("a person waits for this one, %d", i)
		request := translate(text, tasks.Interactive)
		enqueued[text] = time.Now()
		if _, err := client.Enqueue(s.ctx, request.Payload, request.Options...); err != nil {
			return r, err
		}
	}
	to := time.Now()
	if err := s.drained(tasks.Queue(tasks.KindTranslation, tasks.Interactive), time.Minute); err != nil {
		return r, err
	}
	calls := s.api.Requests()
	r.Used = float64(count(between(calls, from, to), answered)) * float64(middle.interval()) / float64(to.Sub(from))
	for _, call := range calls {
		if at, ok := enqueued[textIn(call)]; ok && answered(call) {
			r.MS = append(r.MS, float64(call.At.Sub(at).Microseconds())/1000)
		}
	}
	slices.Sort(r.MS)
	if len(r.MS) != samples {
		return r, fmt.Errorf("%d of %d interactive tasks were called for", len(r.MS), samples)
	}
	return r, s.alive()
}

// Section implements figures.
func (f *latencyFigures) Section() report.Section {
	slot := time.Minute / time.Duration(f.PerMinute)
	s := report.Section{
		Title: "Interactive tasks, idle and behind a bulk backlog",
		About: fmt.Sprintf(`%d worker processes at %d a minute, so a slot of the pace is %s. Interactive tasks are enqueued 0.3 to 1 s apart; the time is from before Enqueue,
which writes a pending record to the bucket (the default with a Store), to the call's arrival at the emulator. *Limit used* counts bulk and interactive calls together.`, f.Workers, f.PerMinute, slot),
		Plot: &report.Plot{Title: "From enqueue to call", X: "ms", Y: "% of interactive tasks", MaxY: 100},
	}
	t := report.Table{Head: []string{"bulk tasks waiting", "interactive tasks", "p50", "p95", "p99", "worst", "limit used"}}
	for _, r := range f.Runs {
		ms := func(p float64) string { return fmt.Sprintf("%.0f ms", percentile(r.MS, p)) }
		t.Rows = append(t.Rows, []string{fmt.Sprint(r.Behind), fmt.Sprint(len(r.MS)), ms(50), ms(95), ms(99), ms(100), percent(r.Used)})
		series := report.Series{Name: fmt.Sprintf("behind %d bulk tasks", r.Behind)}
		for i, x := range r.MS {
			series.X, series.Y = append(series.X, x), append(series.Y, 100*float64(i+1)/float64(len(r.MS)))
		}
		s.Plot.Lines = append(s.Plot.Lines, series)
		if r.Behind > 0 {
			most := float64(slot.Milliseconds() + 100)
			s.Checks = append(s.Checks, report.Check{
				What:   fmt.Sprintf("interactive behind %d bulk tasks at %d a minute, p95", r.Behind, f.PerMinute),
				Target: fmt.Sprintf("at most %.0f ms", most), Got: ms(95), Pass: percentile(r.MS, 95) <= most, Loaded: true,
			})
		}
	}
	s.Tables = []report.Table{t}
	return s
}
