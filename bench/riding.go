package main

import (
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// ride is one run of coalescing over a backlog of one-text tasks.
type ride struct {
	Together bool    `json:"together"`
	Workers  int     `json:"workers"`
	Tasks    int     `json:"tasks"`
	Calls    int     `json:"calls"`
	Refused  int     `json:"refused"`
	Wall     float64 `json:"wall_s"`  // from the first call to the last result
	Paced    float64 `json:"paced_s"` // of this, the time until the last call
}

type ridingFigures struct {
	Rides []ride `json:"rides"`
}

func measureRiding(l *lab) (figures, error) {
	f := &ridingFigures{}
	runs := []ride{{Together: true, Workers: 1, Tasks: 10_000}, {Together: true, Workers: 4, Tasks: 10_000}, {Workers: 4, Tasks: 3000}}
	if l.quick {
		runs = []ride{{Together: true, Workers: 4, Tasks: 10_000}, {Workers: 4, Tasks: 500}}
	}
	for _, r := range runs {
		if err := l.ride(&r); err != nil {
			return nil, err
		}
		l.say("riding: together %v, %d workers: %d calls for %d tasks in %.1f s", r.Together, r.Workers, r.Calls, r.Tasks, r.Wall)
		f.Rides = append(f.Rides, r)
	}
	return f, nil
}

func (l *lab) ride(r *ride) error {
	s, err := l.open(workersaitest.Options{
		Latency: latency, PerWindow: fast.Window, Limits: map[string]int{"embedding": fast.perWindow()},
	})
	if err != nil {
		return err
	}
	defer s.close()
	options := []tasks.Option{tasks.WithLane(tasks.Bulk)}
	if !r.Together {
		options = append(options, tasks.WithModel(solo))
	}
	_, err = s.fill(s.client(true), r.Tasks, func(i int) tasks.Request {
		return tasks.Request{Payload: tasks.Embedding{Texts: []string{textOf(i)}}, Options: options}
	})
	if err != nil {
		return err
	}
	if err := s.workers(r.Workers, tasks.KindEmbedding, fast.PerMinute); err != nil {
		return err
	}
	if err := s.drained(tasks.Queue(tasks.KindEmbedding, tasks.Bulk), 10*time.Minute); err != nil {
		return err
	}
	calls := s.api.Requests()
	first, last := calls[0].At, calls[len(calls)-1].At
	r.Calls, r.Refused = len(calls), count(calls, refused)
	r.Wall, r.Paced = time.Since(first).Seconds(), last.Sub(first).Seconds()
	return nil
}

// Section implements figures.
func (f *ridingFigures) Section() report.Section {
	s := report.Section{
		Title: "Riding together",
		About: fmt.Sprintf(`Embedding tasks of one text each that wait in the lane bulk, at the catalogue's 3,000 a minute, answers after %s. Tasks that do not ride together are for a model
of which the catalogue does not know how many texts it takes. *Until the last result* includes writing a document a task (file store).`, latency),
	}
	t := report.Table{Head: []string{"", "workers", "tasks", "calls", "tasks a call", "429", "until the last call", "until the last result", "tasks a second"}}
	alone := 0.0
	for _, r := range f.Rides {
		way := "riding together"
		if !r.Together {
			way = "one text a call"
			alone = r.Wall / float64(r.Tasks)
		}
		t.Rows = append(t.Rows, []string{
			way, fmt.Sprint(r.Workers), fmt.Sprint(r.Tasks), fmt.Sprint(r.Calls), fmt.Sprintf("%.1f", share(r.Tasks, r.Calls)), fmt.Sprint(r.Refused),
			fmt.Sprintf("%.1f s", r.Paced), fmt.Sprintf("%.1f s", r.Wall), fmt.Sprintf("%.0f", float64(r.Tasks)/r.Wall),
		})
	}
	s.Tables = []report.Table{t}
	for _, r := range f.Rides {
		if r.Together {
			s.Checks = append(s.Checks, report.Check{
				What: fmt.Sprintf("calls for %d one-text tasks, workers: %d", r.Tasks, r.Workers), Target: "at most 105",
				Got: fmt.Sprintf("%d, %.1f times as fast as one text a call", r.Calls, alone*float64(r.Tasks)/r.Wall), Pass: r.Calls <= 105,
			})
		}
	}
	return s
}
