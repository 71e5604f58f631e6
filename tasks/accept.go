package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"golang.org/x/sync/errgroup"
)

const (
	inRedis     = 16 << 10  // payloads up to this size travel through Redis
	withoutBox  = 256 << 10 // and up to this one when there is no bucket
	recordsOnce = 16        // pending records written at a time
	perPipeline = 200       // tasks in one round trip to Redis
)

// EnqueueMany accepts many tasks; receipts and errors stand in the order of the
// requests. Records are written in parallel and Redis is asked in one round trip for
// every 200 tasks.
func (c *Client) EnqueueMany(ctx context.Context, requests []Request) ([]Accepted, []error) {
	now := time.Now()
	tasks := make([]Task, len(requests))
	accepted := make([]Accepted, len(requests))
	errs := make([]error, len(requests))
	keyed := make([]bool, len(requests))
	var g errgroup.Group
	g.SetLimit(recordsOnce)
	for i, r := range requests {
		var o Options
		for _, set := range r.Options {
			set(&o)
		}
		if tasks[i], errs[i] = c.prepare(r.Payload, o, now); errs[i] != nil {
			continue
		}
		keyed[i] = o.IdempotencyKey != ""
		g.Go(func() error {
			accepted[i].Existing, errs[i] = c.record(ctx, &tasks[i], keyed[i])
			return nil
		})
	}
	_ = g.Wait()

	var queue []int
	for i, t := range tasks {
		if errs[i] != nil {
			continue
		}
		accepted[i].ID, accepted[i].Kind, accepted[i].Lane, accepted[i].Model = t.ID, t.Kind, t.Lane, t.Model
		accepted[i].Durability = "redis"
		if t.Pending || accepted[i].Existing && c.cfg.Store != nil {
			accepted[i].Durability = "store"
		}
		if !c.ended(ctx, t, accepted[i].Existing) {
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		n := min(len(queue), perPipeline)
		c.push(ctx, tasks, queue[:n], keyed, errs)
		queue = queue[n:]
	}
	return accepted, errs
}

// push enqueues some of the tasks; where that fails their records go, so that an error
// means what it says.
func (c *Client) push(ctx context.Context, tasks []Task, which []int, keyed []bool, errs []error) {
	some := make([]Task, len(which))
	for j, i := range which {
		some[j] = tasks[i]
	}
	for j, err := range c.queueAll(ctx, some) {
		if err == nil {
			continue
		}
		i := which[j]
		errs[i] = fmt.Errorf("enqueue %s: %w", tasks[i].ID, err)
		// The script may have run although its answer was lost, and a record that
		// another caller may count on is not ours to take back.
		if !keyed[i] && refused(err) && c.withdraw(tasks[i]) == nil {
			continue
		}
		errs[i] = fmt.Errorf("enqueue %s: %w: %w", tasks[i].ID, ErrUnknownOutcome, err)
	}
}

// withdraw removes the record of a task that Redis refused. It is done even when the
// caller has gone.
func (c *Client) withdraw(t Task) error {
	if !t.Pending {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.cfg.Store.Delete(ctx, PendingKey(t.Tenant, t.ID))
}

// record writes what makes an accepted task outlive Redis: large input first, then
// the pending record. It reports whether the idempotency key had the task already.
func (c *Client) record(ctx context.Context, t *Task, keyed bool) (existing bool, err error) {
	if c.cfg.Store == nil {
		if len(t.Payload) > withoutBox {
			return false, Problems{{"payload", fmt.Sprintf("has %d bytes, more than %d: give the client a Store for large inputs", len(t.Payload), withoutBox)}}
		}
		if keyed {
			return c.claimInRedis(ctx, *t)
		}
		return false, nil
	}
	if len(t.Payload) > inRedis {
		key := ArtefactKey(t.Tenant, t.ID, "input.json")
		if err := c.cfg.Store.Put(ctx, key, bytes.NewReader(t.Payload), "application/json"); err != nil {
			return false, fmt.Errorf("store the input: %w", err)
		}
		t.InputKey, t.Payload = key, nil
	}
	t.Pending = true
	document, err := json.Marshal(t)
	if err != nil {
		return false, fmt.Errorf("encode the task: %w", err)
	}
	key := PendingKey(t.Tenant, t.ID)
	if !keyed {
		if err := c.cfg.Store.Put(ctx, key, bytes.NewReader(document), "application/json"); err != nil {
			return false, fmt.Errorf("%w: write the pending record: %w", ErrUnknownOutcome, err)
		}
		return false, nil
	}
	return c.recordOnce(ctx, t, document)
}

// recordOnce writes the record of a keyed task unless its twin has one or has ended. The
// record comes first: a twin's record goes after its result is there, so that whoever
// finds no record finds the result.
func (c *Client) recordOnce(ctx context.Context, t *Task, document []byte) (bool, error) {
	key := PendingKey(t.Tenant, t.ID)
	err := c.cfg.Store.Create(ctx, key, bytes.NewReader(document), "application/json")
	switch {
	case errors.Is(err, storage.ErrExists):
		return c.joinTwin(ctx, t)
	case err != nil:
		return false, fmt.Errorf("%w: write the pending record: %w", ErrUnknownOutcome, err)
	}
	r, err := c.storedResult(ctx, t.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%w: look for the result of its twin: %w", ErrUnknownOutcome, err)
	}
	// It has ended: the record is of no use. One that stays is no harm, see settle.
	_ = c.cfg.Store.Delete(ctx, key)
	return true, sameDigest(r.Digest, t.Digest)
}

// joinTwin takes the place of the task that had the key first. A result decides before
// a record, which may be one that recordOnce is about to take back.
func (c *Client) joinTwin(ctx context.Context, t *Task) (bool, error) {
	var twin Task
	missing := readJSON(ctx, c.cfg.Store, PendingKey(t.Tenant, t.ID), &twin)
	if missing != nil && !errors.Is(missing, storage.ErrNotFound) {
		return false, fmt.Errorf("read the twin's record: %w", missing)
	}
	r, err := c.storedResult(ctx, t.ID)
	switch {
	case err == nil:
		return true, sameDigest(r.Digest, t.Digest)
	case !errors.Is(err, ErrNotFound) || missing != nil:
		return false, fmt.Errorf("read the twin's result: %w", err)
	case twin.Digest != t.Digest:
		return true, ErrIdempotencyMismatch
	}
	*t = twin
	return true, nil
}

func sameDigest(a, b string) error {
	if a != b {
		return ErrIdempotencyMismatch
	}
	return nil
}

// claimInRedis is the same for a client without a bucket: the digest is kept while
// Redis keeps the task's live record.
func (c *Client) claimInRedis(ctx context.Context, t Task) (bool, error) {
	key := LiveKey(t.ID)
	pipe := c.cfg.Redis.TxPipeline()
	first := pipe.HSetNX(ctx, key, "digest", t.Digest)
	held := pipe.HGet(ctx, key, "digest")
	pipe.ExpireAt(ctx, key, t.Deadline.Add(LiveTTL))
	if _, err := pipe.Exec(ctx); err != nil {
		return false, fmt.Errorf("claim the idempotency key: %w", err)
	}
	return !first.Val(), sameDigest(held.Val(), t.Digest)
}

// ended reports whether a task that was accepted before has its result already.
func (c *Client) ended(ctx context.Context, t Task, existing bool) bool {
	if !existing {
		return false
	}
	_, err := c.Result(ctx, t.ID)
	return err == nil
}

// Requeue puts an accepted task back into the queue; one that is there already stays
// as it is.
func (c *Client) Requeue(ctx context.Context, t Task) error {
	return c.queueAll(ctx, []Task{t})[0]
}

func readJSON(ctx context.Context, s storage.Store, key string, into any) error {
	body, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	defer body.Close()
	document, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if err := json.Unmarshal(document, into); err != nil {
		return fmt.Errorf("decode %s: %w", key, err)
	}
	return nil
}
