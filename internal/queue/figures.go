package queue

import (
	"context"
	_ "embed" // the script
	"fmt"
	"strconv"
	"time"

	"github.com/neuronmill/neuronmill/internal/script"
	"github.com/redis/go-redis/v9"
)

//go:embed figures.lua
var figuresLua string

var figures = redis.NewScript(figuresLua)

// Figures counts the tasks of a queue.
type Figures struct {
	Queue     string
	Pending   int // for a free worker
	Active    int // in a worker
	Scheduled int // for their start
	Retry     int // for their next try, deferred tasks included
	Archived  int
	Models    []ModelFigures // of the queue's tasks
	// Oldest is when the first pending task was accepted; zero when none is pending.
	Oldest time.Time
}

// ModelFigures counts the deferred tasks of a model. Oldest is when the first of them was
// accepted; zero when there is none.
type ModelFigures struct {
	Model    string
	Deferred int
	Oldest   time.Time
}

// ReadFigures counts the tasks of queues with one command, or with one for each queue on a
// cluster. The cost does not depend on the number of tasks.
func ReadFigures(ctx context.Context, r redis.UniversalClient, queues []string) ([]Figures, error) {
	together := [][]string{queues}
	if _, cluster := r.(*redis.ClusterClient); cluster {
		together = nil
		for _, q := range queues {
			together = append(together, []string{q})
		}
	}
	replies := script.All(ctx, r, len(together), func(pipe redis.Pipeliner, run script.Run, i int) *redis.Cmd {
		var keys []string
		var args []any
		for _, q := range together[i] {
			keys = append(keys, pendingKey(q), activeKey(q), scheduledKey(q), retryKey(q), archivedKey(q), ModelsKey(q))
			args = append(args, taskPrefix(q), DeferredKey(q, ""))
		}
		return run(figures, ctx, pipe, keys, args...)
	})
	var all []Figures
	for i, reply := range replies {
		rows, err := reply.Slice()
		if err != nil || len(rows) != len(together[i]) {
			return nil, fmt.Errorf("count the tasks of the queues: %w", err)
		}
		for k, row := range rows {
			all = append(all, figuresOf(together[i][k], row))
		}
	}
	return all, nil
}

// figuresOf reads a row of the script's reply.
func figuresOf(queue string, row any) Figures {
	cells, _ := row.([]any)
	number := func(i int) int {
		if i >= len(cells) {
			return 0
		}
		n, _ := strconv.ParseFloat(fmt.Sprint(cells[i]), 64)
		return int(n)
	}
	at := func(i int) time.Time {
		if us := number(i); us > 0 {
			return time.UnixMicro(int64(us))
		}
		return time.Time{}
	}
	f := Figures{Queue: queue, Pending: number(0), Active: number(1), Scheduled: number(2), Retry: number(3), Archived: number(4), Oldest: at(5)}
	for i := 6; i+2 < len(cells); i += 3 {
		f.Models = append(f.Models, ModelFigures{fmt.Sprint(cells[i]), number(i + 1), at(i + 2)})
	}
	return f
}

// Deferred counts the deferred tasks of all models.
func (f Figures) Deferred() int {
	n := 0
	for _, m := range f.Models {
		n += m.Deferred
	}
	return n
}

// Waiting counts the tasks that wait for a worker or for a gate, outside of workers.
func (f Figures) Waiting() int { return f.Pending + f.Deferred() }

// OldestWaiting is when the oldest of the waiting tasks was accepted, as far as the heads
// of the lists show; zero when none waits.
func (f Figures) OldestWaiting() time.Time {
	oldest := f.Oldest
	for _, m := range f.Models {
		if oldest.IsZero() || !m.Oldest.IsZero() && m.Oldest.Before(oldest) {
			oldest = m.Oldest
		}
	}
	return oldest
}
