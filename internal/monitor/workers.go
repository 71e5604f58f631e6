package monitor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

// Worker is a worker process as of its last heartbeat, some seconds ago at most. A killed
// process stays listed for up to ten seconds.
type Worker struct {
	Host    string        `json:"host"`
	PID     int           `json:"pid"`
	Status  string        `json:"status"` // running or stopping
	Started time.Time     `json:"started_at"`
	Queues  []WorkerQueue `json:"queues"` // in the order of tasks.Queues
}

// WorkerQueue describes the slots of a worker for one kind and lane.
type WorkerQueue struct {
	Kind  tasks.Kind `json:"kind"`
	Lane  tasks.Lane `json:"lane"`
	Slots int        `json:"slots"` // most tasks at a time
	Busy  int        `json:"busy"`  // slots with a task, in a call or waiting for its gate
}

// Kinds returns the kinds of tasks that a worker takes.
func (w Worker) Kinds() []tasks.Kind {
	var kinds []tasks.Kind
	for _, q := range w.Queues {
		if !slices.Contains(kinds, q.Kind) {
			kinds = append(kinds, q.Kind)
		}
	}
	return kinds
}

// Slots returns the most tasks that a worker runs at a time, and how many it runs now.
func (w Worker) Slots() (slots, busy int) {
	for _, q := range w.Queues {
		slots, busy = slots+q.Slots, busy+q.Busy
	}
	return slots, busy
}

// Workers lists the running worker processes, oldest first, from the heartbeats of asynq's
// servers in Redis.
func (m *Monitor) Workers(ctx context.Context) ([]Worker, error) {
	if m.WorkersFor == 0 {
		return m.readWorkers(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.read) < m.WorkersFor {
		return slices.Clone(m.workers), nil
	}
	workers, err := m.readWorkers(ctx)
	if err != nil {
		return nil, err
	}
	m.workers, m.read = workers, time.Now()
	return slices.Clone(workers), nil
}

func (m *Monitor) readWorkers(ctx context.Context) ([]Worker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	servers, err := queue.ReadOccupancy(m.Redis)
	if err != nil {
		return nil, err
	}
	return workersOf(servers), nil
}

// workersOf lists the processes behind servers, oldest first. A process of an earlier
// version has one server for each queue. The start time tells processes apart, since
// processes in containers may share host name and id.
func workersOf(servers []queue.ServerInfo) []Worker {
	slices.SortFunc(servers, func(a, b queue.ServerInfo) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.PID, b.PID), a.Started.Compare(b.Started))
	})
	var workers []Worker
	for _, server := range servers {
		last := len(workers) - 1
		if last < 0 || workers[last].Host != server.Host || workers[last].PID != server.PID || server.Started.Sub(workers[last].Started) > together {
			workers = append(workers, Worker{Host: server.Host, PID: server.PID, Started: server.Started, Status: "running"})
			last++
		}
		workers[last].add(server)
	}
	slices.SortStableFunc(workers, func(a, b Worker) int { return a.Started.Compare(b.Started) })
	return workers
}

// together is the longest time between the starts of the servers of one process.
const together = 5 * time.Second

func (w *Worker) add(server queue.ServerInfo) {
	if server.Stopping {
		w.Status = "stopping"
	}
	for _, q := range server.Slots {
		kind, lane, _ := strings.Cut(q.Queue, ":")
		w.Queues = append(w.Queues, WorkerQueue{Kind: tasks.Kind(kind), Lane: tasks.Lane(lane), Slots: q.Slots, Busy: q.Busy})
	}
	w.sort()
}

// sort brings the queues into the order of tasks.Queues.
func (w *Worker) sort() {
	order := tasks.Queues()
	slices.SortFunc(w.Queues, func(a, b WorkerQueue) int {
		return cmp.Compare(slices.Index(order, tasks.Queue(a.Kind, a.Lane)), slices.Index(order, tasks.Queue(b.Kind, b.Lane)))
	})
}

// Missing explains why no worker takes tasks of a kind and lane: none runs, or none takes
// the kind. It returns an empty text if a worker takes them.
func Missing(workers []Worker, kind tasks.Kind, lane tasks.Lane) string {
	running := slices.DeleteFunc(slices.Clone(workers), func(w Worker) bool { return w.Status != "running" })
	switch slots, _ := SlotsOf(running, kind, lane); {
	case slots > 0:
		return ""
	case len(running) > 0:
		return fmt.Sprintf("no worker takes %s tasks; start one: neuronmill worker --kinds %s", kind, kind)
	case len(workers) > 0:
		return "the last worker is stopping; start one: neuronmill worker"
	}
	return "no worker runs; start one: neuronmill worker"
}

// SlotsOf returns the most tasks of a kind and lane that the workers run at a time, and how
// many they run now.
func SlotsOf(workers []Worker, kind tasks.Kind, lane tasks.Lane) (slots, busy int) {
	for _, w := range workers {
		for _, q := range w.Queues {
			if q.Kind == kind && q.Lane == cmp.Or(lane, tasks.Interactive) {
				slots, busy = slots+q.Slots, busy+q.Busy
			}
		}
	}
	return slots, busy
}
