package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// lineAsynq is what one would build first: a task of asynq for each line, which calls and
// stores its answer.
const lineAsynq = "asynq, a task a line"

// linesFigures compare a batch with single tasks.
type linesFigures struct {
	Lines   int     `json:"lines"`
	Batch   oneWay  `json:"batch"`
	Singles oneWay  `json:"singles"`
	Ratio   float64 `json:"ratio"` // of the lines a second
	Memory  float64 `json:"memory"`
}

// oneWay is a way to run the lines of a file, from the file to the last result.
type oneWay struct {
	Wall  float64 `json:"wall_s"`
	Calls int     `json:"calls"`
	Redis int64   `json:"redis_bytes"` // most memory during the run
}

func measureLines(l *lab) (figures, error) {
	f := &linesFigures{Lines: 100_000}
	if l.quick {
		f.Lines = 20_000
	}
	var err error
	if f.Singles, err = l.wayOf(func(s *site) error { return s.singleLines(f.Lines) }); err != nil {
		return nil, err
	}
	if f.Batch, err = l.wayOf(func(s *site) error { return s.batchLines(f.Lines) }); err != nil {
		return nil, err
	}
	f.Ratio = f.Singles.Wall / f.Batch.Wall
	f.Memory = float64(f.Batch.Redis) / float64(f.Singles.Redis)
	l.say("lines: %.1f times as fast as single tasks, %.1f %% of their memory in Redis", f.Ratio, 100*f.Memory)
	return f, nil
}

// wayOf runs the lines on a site of their own, with an emulator that answers at once.
func (l *lab) wayOf(run func(*site) error) (w oneWay, err error) {
	s, err := l.open(workersaitest.Options{NoLimits: true})
	if err != nil {
		return w, err
	}
	defer s.close()
	api := &atOnce{}
	s.server.Handler = api
	empty, err := s.redisUse()
	if err != nil {
		return w, err
	}
	stop := make(chan struct{})
	most := make(chan int64, 1)
	go func() {
		m := int64(0)
		for {
			if now, err := s.redisUse(); err == nil {
				m = max(m, now.since(empty).memory)
			}
			select {
			case <-stop:
				most <- m
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	start := time.Now()
	err = run(s)
	w.Wall = time.Since(start).Seconds()
	close(stop)
	w.Redis, w.Calls = <-most, api.count()
	return w, err
}

// singleLines enqueues a task for each line and waits for the last one.
func (s *site) singleLines(n int) error {
	client := asynq.NewClientFromRedisClient(s.redis)
	for i := range n {
		if _, err := client.EnqueueContext(s.ctx, asynq.NewTask("embed", []byte(rowText(i, n)))); err != nil {
			return err
		}
	}
	if err := s.asynqRival(lineAsynq, 1, 0); err != nil {
		return err
	}
	return s.drained("default", 30*time.Minute)
}

// batchLines runs the lines as a batch and waits for its output.
func (s *site) batchLines(n int) error {
	file := filepath.Join(s.dir, "rows.jsonl")
	if _, err := writeRows(file, n); err != nil {
		return err
	}
	if err := s.workers(1, tasks.KindEmbedding, 1_000_000); err != nil {
		return err
	}
	id, err := s.submit(&batchFigures{}, file)
	if err != nil {
		return err
	}
	b := batch.New(batch.Config{Client: s.client(true), Store: s.store, Redis: s.redis})
	return s.until("the end of the batch", time.Hour, func() (bool, error) {
		state, err := b.State(s.ctx, id)
		if err == nil {
			err = s.alive()
		}
		return err == nil && !state.EndedAt.IsZero(), err
	})
}

// embedLine is the handler of lineAsynq.
func (c *rivalCmd) embedLine(ctx context.Context, store storage.Store, t *asynq.Task) error {
	body, err := json.Marshal(map[string][]string{"text": {string(t.Payload())}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/accounts/bench/ai/run/@cf/baai/bge-base-en-v1.5", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer bench")
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	if err != nil {
		return err
	}
	id, _ := asynq.GetTaskID(ctx)
	return store.Create(ctx, "default/tasks/"+id+"/result.json", strings.NewReader(string(answer)), "application/json")
}

// Section implements figures.
func (f *linesFigures) Section() report.Section {
	row := func(name string, w oneWay) []string {
		return []string{name, fmt.Sprintf("%.1f s", w.Wall), fmt.Sprintf("%.0f", float64(f.Lines)/w.Wall), fmt.Sprint(w.Calls), fmt.Sprintf("%.2f MB", float64(w.Redis)/(1<<20))}
	}
	return report.Section{
		Title: "A batch against a task a line",
		About: fmt.Sprintf(`%d lines of embeddings, from the file to the last result; answers at once, results in a folder, one worker process. A task of asynq for each line calls with its text and stores the answer, %d slots.
The batch reads the file, sends 100 lines in a call, and puts its output together; of its time some seconds are fixed, until a worker sees the batch.`, f.Lines, slots),
		Tables: []report.Table{{
			Head: []string{"way", "time", "lines a second", "calls", "most memory in Redis"},
			Rows: [][]string{row("neuronmill batch", f.Batch), row(lineAsynq, f.Singles)},
		}},
		Checks: []report.Check{
			{What: "lines a second against " + lineAsynq, Target: "at least 5 times", Got: fmt.Sprintf("%.1f times", f.Ratio), Pass: f.Ratio >= 5, Loaded: true},
			{What: "memory in Redis", Target: "under 2 % at 100,000 lines", Got: percent(f.Memory), Pass: f.Memory < 0.02, Loaded: true},
		},
	}
}
