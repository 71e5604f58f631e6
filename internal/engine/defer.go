package engine

import (
	"context"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

// deferTask defers a task: it adds the task to the deferred tasks of its queue and model, see
// package maintenance, and returns it to the queue until its deadline. If Redis fails, the
// task is retried after 5 s at the latest.
func (e *Engine) deferTask(ctx context.Context, t tasks.Task, why string) error {
	after := time.Until(t.Deadline) + queue.DeferredSlack
	if err := queue.Defer(ctx, e.cfg.Redis, tasks.Queue(t.Kind, t.Lane), t.Model, t.ID, t.CreatedAt); err != nil {
		after = min(after, 5*time.Second)
	}
	return &requeueError{after: after, why: why}
}

// sharingCachedFor is how long the answer of sharesQueue is cached.
const sharingCachedFor = time.Second

// sharesQueue reports whether a queue has tasks of several models. While one caller asks Redis,
// the others use the previous answer.
func (e *Engine) sharesQueue(ctx context.Context, k tasks.Kind, l tasks.Lane) bool {
	name := tasks.Queue(k, l)
	e.sharing.mu.Lock()
	seen := e.sharing.queues[name]
	fresh := time.Since(seen.at) < sharingCachedFor
	if !fresh {
		e.sharing.queues[name] = sharing{time.Now(), seen.shared}
	}
	e.sharing.mu.Unlock()
	if fresh {
		return seen.shared
	}
	n, err := e.cfg.Redis.SCard(ctx, queue.ModelsKey(name)).Result()
	if err != nil {
		return seen.shared
	}
	e.sharing.mu.Lock()
	defer e.sharing.mu.Unlock()
	e.sharing.queues[name] = sharing{time.Now(), n > 1}
	return n > 1
}

// sharing is the last known state of a queue.
type sharing struct {
	at     time.Time
	shared bool
}

// waitingSlots returns how many waiting tasks of one model may hold slots of a shared queue: half
// of the slots, the other half is for other models.
func (e *Engine) waitingSlots(k tasks.Kind) int { return (e.cfg.slots(k) + 1) / 2 }
