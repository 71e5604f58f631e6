package monitor

import (
	"context"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

// Fleet is the state of queues, gates and workers at one moment. Reading it takes four
// commands of Redis, or some for each queue, gate and worker on a cluster, whatever the
// number of tasks. The report, the scaling, the metrics and the terminal are made from it,
// so that they agree.
type Fleet struct {
	At     time.Time
	Queues []Queue      // of each kind and lane, in the order of tasks.Queues
	Gates  []gate.State // that were ever used, by name
	// Workers have no counts of busy slots by queue; Queue.Active has those of all workers.
	Workers []Worker
	// OverBudget counts the tasks that wait for the budget of the next day.
	OverBudget int
}

// Queue counts the tasks of a kind and lane.
type Queue struct {
	Kind      tasks.Kind
	Lane      tasks.Lane
	Pending   int // for a free worker
	Active    int // in a worker: called, or waiting for their gate there
	Scheduled int // for their start
	Retry     int // for their next try after a failed attempt
	Deferred  map[string]int
	// Oldest is when the oldest task was accepted that waits for a worker or outside of
	// workers for a gate; zero when none waits.
	Oldest time.Time
	models []string
}

// Waiting counts the tasks that wait for a worker, or outside of workers for a gate.
func (q Queue) Waiting() int {
	n := q.Pending
	for _, deferred := range q.Deferred {
		n += deferred
	}
	return n
}

// Name is the queue's name, "text:bulk".
func (q Queue) Name() string { return tasks.Queue(q.Kind, q.Lane) }

// Fleet reads the state of the fleet.
func (m *Monitor) Fleet(ctx context.Context, g *gate.Gate) (Fleet, error) {
	figures, err := queue.ReadFigures(ctx, m.Redis, tasks.Queues())
	if err != nil {
		return Fleet{}, err
	}
	servers, err := queue.ReadServers(ctx, m.Redis)
	if err != nil {
		return Fleet{}, err
	}
	f := Fleet{At: time.Now(), Workers: workersOf(servers)}
	if f.Gates, err = g.All(ctx); err != nil {
		return Fleet{}, err
	}
	if f.OverBudget, err = queue.CountWaiting(ctx, m.Redis, f.At.UTC().Truncate(24*time.Hour)); err != nil {
		return Fleet{}, err
	}
	for _, q := range figures {
		f.Queues = append(f.Queues, queueOf(q))
	}
	return f, nil
}

func queueOf(f queue.Figures) Queue {
	kind, lane, _ := strings.Cut(f.Queue, ":")
	q := Queue{
		Kind: tasks.Kind(kind), Lane: tasks.Lane(lane), Pending: f.Pending, Active: f.Active, Scheduled: f.Scheduled,
		Retry: max(f.Retry-f.Deferred(), 0), Deferred: map[string]int{}, Oldest: f.OldestWaiting(),
	}
	for _, m := range f.Models {
		q.models = append(q.models, m.Model)
		if m.Deferred > 0 {
			q.Deferred[m.Model] = m.Deferred
		}
	}
	return q
}

// Waiting counts the tasks that wait in all queues.
func (f Fleet) Waiting() int {
	n := 0
	for _, q := range f.Queues {
		n += q.Waiting()
	}
	return n
}

// DeferredAt counts the deferred tasks that wait for the gate of a model.
func (f Fleet) DeferredAt(model string) int {
	n := 0
	for _, q := range f.Queues {
		n += q.Deferred[model]
	}
	return n
}
