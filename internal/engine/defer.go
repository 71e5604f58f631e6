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
func (h *Engine) deferTask(ctx context.Context, t tasks.Task, why string) error {
	after := time.Until(t.Deadline) + queue.DeferredSlack
	if err := queue.Defer(ctx, h.cfg.Redis, tasks.Queue(t.Kind, t.Lane), t.Model, t.ID, t.CreatedAt); err != nil {
		after = min(after, 5*time.Second)
	}
	return &requeueError{after: after, why: why}
}

// sharingCachedFor is how long the answer of sharesQueue is cached.
const sharingCachedFor = time.Second

// sharesQueue reports whether a queue has tasks of several models. While one caller asks Redis,
// the others use the previous answer.
func (h *Engine) sharesQueue(ctx context.Context, k tasks.Kind, l tasks.Lane) bool {
	name := tasks.Queue(k, l)
	h.sharing.mu.Lock()
	seen := h.sharing.queues[name]
	fresh := time.Since(seen.at) < sharingCachedFor
	if !fresh {
		h.sharing.queues[name] = sharing{time.Now(), seen.shared}
	}
	h.sharing.mu.Unlock()
	if fresh {
		return seen.shared
	}
	n, err := h.cfg.Redis.SCard(ctx, queue.ModelsKey(name)).Result()
	if err != nil {
		return seen.shared
	}
	h.sharing.mu.Lock()
	defer h.sharing.mu.Unlock()
	h.sharing.queues[name] = sharing{time.Now(), n > 1}
	return n > 1
}

// sharing is the last known state of a queue.
type sharing struct {
	at     time.Time
	shared bool
}

// waitingSlots returns how many waiting tasks of one model may hold slots of a shared queue: half
// of the slots, the other half is for other models.
func (h *Engine) waitingSlots(k tasks.Kind) int { return (h.cfg.slots(k) + 1) / 2 }
