package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/bench/report"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// cost is the cost per task of a way. Figures are the medians of the rounds.
type cost struct {
	Way       string  `json:"way"`
	PerSecond float64 `json:"per_second"`
	Commands  float64 `json:"commands"`  // Redis commands per task, from the queue to its end
	RedisCPU  float64 `json:"redis_us"`  // per task
	WorkerCPU float64 `json:"worker_us"` // per task
	Bytes     float64 `json:"bytes"`     // of Redis per waiting task
	Accepted  float64 `json:"accepted"`  // tasks per second that one producer enqueued
}

type overheadFigures struct {
	Tasks  int    `json:"tasks"`
	Rounds int    `json:"rounds"`
	Costs  []cost `json:"costs"`
	// Ratio compares the tasks per second of oursRecorded, the default with a Store, with
	// those of storedAsynq: the median over rounds.
	Ratio float64 `json:"ratio_recorded"`
	// Unrecorded is the same ratio without a pending record.
	Unrecorded float64 `json:"ratio_unrecorded"`
	// Folder is the same ratio with results in a folder.
	Folder float64 `json:"folder"`
}

// oursRecorded is neuronmill as the command line enqueues: each task has a pending record
// in the bucket, which it shares with others.
const (
	oursRecorded = ours + ", accepted into the bucket"
	oursRiding   = ours + ", embedding tasks that ride together"
	oursFolder   = ours + ", results in a folder"
)

func measureOverhead(l *lab) (figures, error) {
	f := &overheadFigures{Tasks: 4000, Rounds: 5}
	if l.quick {
		f.Tasks, f.Rounds = 2000, 1
	}
	ways := []string{bareAsynq, storedAsynq, ours, oursRecorded, oursRiding, folderAsynq, oursFolder}
	rounds := map[string][]cost{}
	for range f.Rounds {
		for _, way := range ways {
			c, err := l.cost(way, f.Tasks)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way, err)
			}
			l.say("overhead: %-45s %6.0f tasks a second, %5.1f commands, worker %4.0f us, redis %4.0f us", way, c.PerSecond, c.Commands, c.WorkerCPU, c.RedisCPU)
			rounds[way] = append(rounds[way], c)
		}
	}
	for _, way := range ways {
		f.Costs = append(f.Costs, middleOf(rounds[way]))
	}
	f.Ratio = ratio(rounds[oursRecorded], rounds[storedAsynq])
	f.Unrecorded = ratio(rounds[ours], rounds[storedAsynq])
	f.Folder = ratio(rounds[oursFolder], rounds[folderAsynq])
	return f, nil
}

// cost lets one worker process work off a queue.
func (l *lab) cost(way string, n int) (cost, error) {
	c := cost{Way: way}
	bucket := s3Server
	if way == folderAsynq || way == oursFolder {
		bucket = folder
	}
	s, err := l.openWith(workersaitest.Options{NoLimits: true}, bucket)
	if err != nil {
		return c, err
	}
	defer s.close()
	empty, err := s.redisUse()
	if err != nil {
		return c, err
	}
	filled := time.Now()
	queue, err := s.fillFor(way, n)
	if err != nil {
		return c, err
	}
	c.Accepted = float64(n) / time.Since(filled).Seconds()
	full, err := s.redisUse()
	if err != nil {
		return c, err
	}
	kind := tasks.KindTranslation
	switch way {
	case ours, oursRecorded, oursFolder:
		err = s.workers(1, kind, 1_000_000, "--concurrency", fmt.Sprint(slots))
	case oursRiding:
		kind = tasks.KindEmbedding
		err = s.workers(1, kind, 1_000_000, "--concurrency", fmt.Sprint(slots))
	default:
		err = s.asynqRival(way, 2, 0)
	}
	if err != nil {
		return c, err
	}
	begun := int64(0)
	err = s.until("the first task", time.Minute, func() (bool, error) {
		left, err := s.waiting(queue)
		begun = int64(n) - left
		return begun > 0, err
	})
	if err != nil {
		return c, err
	}
	start := time.Now()
	if err := s.drained(queue, 10*time.Minute); err != nil {
		return c, err
	}
	took := time.Since(start)
	done, err := s.redisUse()
	if err != nil {
		return c, err
	}
	used := done.since(full)
	c.PerSecond = float64(int64(n)-begun) / took.Seconds()
	c.Commands = float64(used.commands) / float64(n)
	c.RedisCPU = float64(used.cpu.Microseconds()) / float64(n)
	c.WorkerCPU = float64(s.stopWorkers().Microseconds()) / float64(n)
	c.Bytes = float64(full.since(empty).memory) / float64(n)
	return c, nil
}

// fillFor enqueues the tasks of a way and returns the name of their queue.
func (s *site) fillFor(way string, n int) (string, error) {
	switch way {
	case ours, oursRecorded, oursFolder:
		_, err := s.fill(s.client(way == oursRecorded), n, func(i int) tasks.Request { return translate(textOf(i), tasks.Interactive) })
		return tasks.Queue(tasks.KindTranslation, tasks.Interactive), err
	case oursRiding:
		_, err := s.fill(s.client(false), n, func(i int) tasks.Request {
			return tasks.Request{Payload: tasks.Embedding{Texts: []string{textOf(i)}}}
		})
		return tasks.Queue(tasks.KindEmbedding, tasks.Interactive), err
	}
	client := asynq.NewClientFromRedisClient(s.redis)
	for i := range n {
		if _, err := client.EnqueueContext(s.ctx, asynq.NewTask("translate", fmt.Appendf(nil, `{"text":%q,"target_lang":"es"}`, textOf(i)))); err != nil {
			return "", err
		}
	}
	return "default", nil
}

// ratio returns one way's tasks per second divided by another's, the median over rounds.
func ratio(way, other []cost) float64 {
	var ratios []float64
	for i, c := range way {
		ratios = append(ratios, c.PerSecond/other[i].PerSecond)
	}
	return median(ratios)
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

func middleOf(costs []cost) cost {
	of := func(field func(cost) float64) float64 {
		var x []float64
		for _, c := range costs {
			x = append(x, field(c))
		}
		return median(x)
	}
	return cost{
		Way: costs[0].Way, PerSecond: of(func(c cost) float64 { return c.PerSecond }), Commands: of(func(c cost) float64 { return c.Commands }),
		RedisCPU: of(func(c cost) float64 { return c.RedisCPU }), WorkerCPU: of(func(c cost) float64 { return c.WorkerCPU }),
		Bytes: of(func(c cost) float64 { return c.Bytes }), Accepted: of(func(c cost) float64 { return c.Accepted }),
	}
}

// Section implements figures.
func (f *overheadFigures) Section() report.Section {
	s := report.Section{
		Title: "What a task costs",
		About: fmt.Sprintf(`One worker process takes %d tasks that wait, %d slots, the same Redis settings (AOF every second), the same intervals of asking, two queues (lanes) a worker, results in the same
bucket of a real S3 server on the same machine; medians of %d rounds in turn. neuronmill also makes an HTTP call a task to the emulator, which answers at once and shares the machine; asynq's handler calls nobody.
*Accepted into the bucket* is with pending records, which tasks share that one call accepts. *Accepted* is what one producer enqueues, 1,000 in a call, one by one for asynq. *Bytes* is what a task that waits takes in Redis; neuronmill's carries model, deadline, digest and lane.
With results in a folder, where storing one costs a fraction of a millisecond, it is %s: what there is beside the storing weighs more.`, f.Tasks, slots, f.Rounds, percent(f.Folder)),
	}
	accepted := 0.0
	t := report.Table{Head: []string{"way", "accepted a second", "tasks a second", "Redis commands a task", "Redis CPU a task", "worker CPU a task", "Redis bytes a waiting task"}}
	for _, c := range f.Costs {
		t.Rows = append(t.Rows, []string{
			c.Way, fmt.Sprintf("%.0f", c.Accepted), fmt.Sprintf("%.0f", c.PerSecond), fmt.Sprintf("%.1f", c.Commands), fmt.Sprintf("%.0f us", c.RedisCPU),
			fmt.Sprintf("%.0f us", c.WorkerCPU), fmt.Sprintf("%.0f", c.Bytes),
		})
	}
	for _, c := range f.Costs {
		if c.Way == oursRecorded {
			accepted = c.Accepted
		}
	}
	s.Tables = []report.Table{t}
	s.Checks = []report.Check{
		{What: "tasks a second against " + storedAsynq + ", with a pending record (the default with a Store)", Target: "at least 70 %", Got: percent(f.Ratio), Pass: f.Ratio >= 0.7, Loaded: true},
		{What: "the same without a pending record", Target: "at least 90 %", Got: percent(f.Unrecorded), Pass: f.Unrecorded >= 0.9, Loaded: true},
		{What: "the same with results in a folder", Target: "at least 75 %", Got: percent(f.Folder), Pass: f.Folder >= 0.75, Loaded: true},
		{What: "tasks accepted a second with pending records in S3, one producer", Target: "at least 2,000", Got: fmt.Sprintf("%.0f", accepted), Pass: accepted >= 2000, Loaded: true},
	}
	return s
}
