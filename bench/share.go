package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// shareFigures are two batches that share the limit of one model.
type shareFigures struct {
	PerMinute int     `json:"per_minute"`
	Alone     float64 `json:"alone_s"` // how long the first batch runs alone
	Used      float64 `json:"used"`    // calls as part of the limit, from the first call to the last
	Refused   int     `json:"refused"` // calls answered 429
	Half      float64 `json:"half_s"`  // from the start of the second batch until ten seconds of which it has half
	Share     float64 `json:"share"`   // of the second batch, in the last half minute of both
	First     []int   `json:"first"`   // calls of each second
	Second    []int   `json:"second"`
}

func measureShare(l *lab) (figures, error) {
	f := &shareFigures{PerMinute: 600, Alone: 40}
	both := 90 * time.Second
	if l.quick {
		f.Alone, both = 15, 45*time.Second
	}
	s, err := l.open(workersaitest.Options{Limits: map[string]int{"text": f.PerMinute / 4}, PerWindow: 15 * time.Second, Latency: 200 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	defer s.close()
	perSecond := float64(f.PerMinute) / 60
	second := int(perSecond * both.Seconds() / 2)
	first := second + int(perSecond*f.Alone)
	if err := s.workers(2, tasks.KindText, f.PerMinute); err != nil {
		return nil, err
	}
	one, err := s.submitTexts("first", first)
	if err != nil {
		return nil, err
	}
	err = s.until("the first call", time.Minute, func() (bool, error) { return len(s.api.Requests()) > 0, s.alive() })
	if err == nil {
		err = l.sleep(time.Until(s.api.Requests()[0].At.Add(time.Duration(f.Alone * float64(time.Second)))))
	}
	if err != nil {
		return nil, err
	}
	began := time.Now()
	two, err := s.submitTexts("second", second)
	if err != nil {
		return nil, err
	}
	b := batch.New(batch.Config{Client: s.client(true), Store: s.store, Redis: s.redis})
	for _, id := range []string{one, two} {
		err := s.until("the end of both batches", 10*time.Minute, func() (bool, error) {
			state, err := b.State(s.ctx, id)
			return err == nil && !state.EndedAt.IsZero(), err
		})
		if err != nil {
			return nil, err
		}
	}
	f.count(s.api.Requests(), began)
	l.say("share: %.1f %% used, half after %.0f s, then %.0f %%", 100*f.Used, f.Half, 100*f.Share)
	return f, nil
}

// submitTexts hands a file of texts over and returns the id of the batch.
func (s *site) submitTexts(name string, n int) (string, error) {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{"id":"row-%d","kind":"text","input":{"prompt":"%s %d","max_tokens":20}}`+"\n", i, name, i)
	}
	file := filepath.Join(s.dir, name+".jsonl")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return "", err
	}
	return s.submit(&batchFigures{}, file)
}

// count fills in the figures from the calls; the second batch was submitted at began.
func (f *shareFigures) count(calls []workersaitest.Request, began time.Time) {
	start, end := calls[0].At, calls[len(calls)-1].At
	seconds := int(end.Sub(start)/time.Second) + 1
	f.First, f.Second = make([]int, seconds), make([]int, seconds)
	answered, lastFirst, lastSecond := 0, 0, 0
	for _, c := range calls {
		at := int(c.At.Sub(start) / time.Second)
		switch {
		case refused(c):
			f.Refused++
			continue
		case strings.Contains(string(c.Body), "second "):
			f.Second[at]++
			lastSecond = at
		default:
			f.First[at]++
			lastFirst = at
		}
		answered++
	}
	f.Used = float64(answered-1) / (float64(f.PerMinute) / 60 * end.Sub(start).Seconds())
	// The last seconds of the shorter batch have its rest only.
	together := max(min(lastFirst, lastSecond)-2, 0)
	from := int(began.Sub(start) / time.Second)
	share := func(from, to int) float64 {
		one, two := 0, 0
		for i := max(from, 0); i < min(to, seconds); i++ {
			one, two = one+f.First[i], two+f.Second[i]
		}
		return float64(two) / float64(max(one+two, 1))
	}
	f.Half = halfAfter(from, together, share)
	f.Share = share(max(together-30, from), together)
}

// halfAfter returns how many seconds after the start of the second batch its share of ten
// seconds was at least 45 %; they count to their end.
func halfAfter(from, to int, share func(from, to int) float64) float64 {
	for at := from; at+10 <= to; at++ {
		if share(at, at+10) >= 0.45 {
			return float64(at + 10 - from)
		}
	}
	return float64(to - from)
}

// Section implements figures.
func (f *shareFigures) Section() report.Section {
	seconds := func(name string, of []int) report.Series {
		s := report.Series{Name: name}
		for at := 0; at+5 <= len(of); at += 5 {
			sum := 0
			for _, n := range of[at : at+5] {
				sum += n
			}
			s.X, s.Y = append(s.X, float64(at)), append(s.Y, float64(sum)*12)
		}
		return s
	}
	return report.Section{
		Title: "Two batches share a limit",
		About: fmt.Sprintf(`A batch of texts at %d calls a minute, 2 workers, answers after 200 ms, a sliding window of 15 s with its part of the limit. After %.0f s a second batch is submitted. *Half* is when the second one had
at least 45 %% of the calls of ten seconds, counted from its submission to the end of these; *share* is its part in the last half minute of both.`, f.PerMinute, f.Alone),
		Tables: []report.Table{{
			Head: []string{"limit used from the first call to the last", "429", "half after", "share then"},
			Rows: [][]string{{percent(f.Used), fmt.Sprint(f.Refused), fmt.Sprintf("%.0f s", f.Half), percent(f.Share)}},
		}},
		Checks: []report.Check{
			{What: "limit used", Target: "at least 97 %", Got: percent(f.Used), Pass: f.Used >= 0.97, Loaded: true},
			{What: "the second batch has its half", Target: "within a minute", Got: fmt.Sprintf("after %.0f s, then %s", f.Half, percent(f.Share)), Pass: f.Half <= 60 && f.Share >= 0.45 && f.Share <= 0.55, Loaded: true},
		},
		Plot: &report.Plot{Title: "Calls a minute of two batches", X: "seconds", Y: "calls a minute", Lines: []report.Series{seconds("first", f.First), seconds("second", f.Second)}},
	}
}
