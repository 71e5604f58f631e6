package monitor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/redis/go-redis/v9"
)

// Leaving counts cancelled tasks of a model in one queue that have not left yet. A worker or
// the leader ends them within seconds, so a new task does not wait for them.
type Leaving struct {
	Queued int // pending, deferred
	AtGate int // in a worker's slot, waiting for the gate
}

// leavingMost is how many cancelled tasks of the fleet are looked at, the newest first.
const leavingMost = 100

// LeavingOf looks for cancelled tasks of a model.
func (m *Monitor) LeavingOf(ctx context.Context, name, model string) (Leaving, error) {
	var l Leaving
	ids, err := m.Redis.ZRevRange(ctx, taskstate.CancelledKey, 0, leavingMost-1).Result()
	if err != nil || len(ids) == 0 {
		return l, wrapped(err)
	}
	found, err := queue.Find(ctx, m.Redis, name, ids)
	if err != nil {
		return l, fmt.Errorf("look for cancelled tasks: %w", err)
	}
	pipe := m.Redis.Pipeline()
	states := make([]func() (taskstate.State, error), len(ids))
	for i, id := range ids {
		states[i] = taskstate.ReadState(ctx, pipe, id)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return l, wrapped(err)
	}
	for i, q := range found {
		state, _ := states[i]() // its error is the pipeline's
		switch {
		case !strings.HasSuffix(q.Turn, " "+model):
		case q.Waiting():
			l.Queued++
		case q.State != "" && state.Idle:
			l.AtGate++
		}
	}
	return l, nil
}

func wrapped(err error) error {
	if err != nil {
		return fmt.Errorf("look for cancelled tasks: %w", err)
	}
	return nil
}
