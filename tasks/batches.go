package tasks

import (
	"context"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// WithBatchChunk returns the same task for the same chunk of a batch, whichever process
// enqueues it. It cannot collide with a producer's own idempotency key.
func WithBatchChunk(batch, chunk string) Option {
	return func(o *Options) {
		o.IdempotencyKey, o.space = batch+"/"+chunk, batchKeys
		o.origin.Batch, o.origin.Chunk = batch, chunk
	}
}

// TaskState is the state of a task as Redis knows it.
type TaskState struct {
	Ended  bool // it has a result, which the bucket holds
	Queued bool // it is in a queue or a worker owns it
}

// States returns the states of many tasks in one round trip, in the order of the receipts.
// A task that is neither ended nor queued was lost by Redis, or ended more than an hour
// ago.
func (c *Client) States(ctx context.Context, receipts []Receipt) ([]TaskState, error) {
	if c.invalid != nil {
		return nil, c.invalid
	}
	ended, queued := make([]func() (taskstate.State, error), len(receipts)), make([]*redis.IntCmd, len(receipts))
	pipe := c.cfg.Redis.Pipeline()
	for i, r := range receipts {
		ended[i] = taskstate.ReadState(ctx, pipe, r.ID)
		queued[i] = queue.Exists(ctx, pipe, Queue(r.Kind, r.Lane), r.ID)
	}
	if len(receipts) > 0 {
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, fmt.Errorf("read the states of tasks: %w", err)
		}
	}
	states := make([]TaskState, len(receipts))
	for i := range receipts {
		live, _ := ended[i]() // an error is that of the pipeline
		states[i] = TaskState{Ended: live.Ended, Queued: queued[i].Val() == 1 || !live.Ended && live.Owned}
	}
	return states, nil
}

// ReceiptOf returns the receipt that Enqueue would give for a request with an idempotency
// key or a chunk, without enqueuing it. It reads neither Redis nor the bucket.
func (c *Client) ReceiptOf(r Request) (Receipt, error) {
	t, err := c.taskOf(r)
	if err != nil {
		return Receipt{}, err
	}
	n := candidate{task: t}
	return n.receipt(), nil
}

func (c *Client) taskOf(r Request) (Task, error) {
	var o Options
	for _, set := range r.Options {
		set(&o)
	}
	return c.prepare(r.Payload, o, time.Now())
}

// Forget deletes the stored objects of ended tasks: result, input, and the entry in the
// dead letters. The caller has copied the results and never enqueues the
// requests again. Artefacts stay.
func (c *Client) Forget(ctx context.Context, requests []Request) error {
	if c.invalid != nil {
		return c.invalid
	}
	if c.cfg.Store == nil {
		return nil
	}
	var keys []string
	for _, r := range requests {
		t, err := c.taskOf(r)
		if err != nil {
			return fmt.Errorf("forget a task: %w", err)
		}
		keys = append(keys, objects.ResultKey(t.Tenant, t.ID), objects.DeadKey(t.Tenant, t.ID), objects.FailedTaskKey(t.Tenant, t.ID))
		if len(t.Payload) > inRedis {
			keys = append(keys, inputKey(t))
		}
	}
	if err := storage.DeleteMany(ctx, c.cfg.Store, keys); err != nil {
		return fmt.Errorf("forget tasks: %w", err)
	}
	return nil
}
