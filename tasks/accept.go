package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"golang.org/x/sync/errgroup"
)

const (
	inRedis     = 16 << 10  // largest payload that travels through Redis, in bytes
	withoutBox  = 256 << 10 // the same limit for a client without a bucket
	recordsOnce = 16        // pending records written in parallel
	perPipeline = 200       // tasks in one round trip to Redis
)

// candidate is one request during acceptance.
type candidate struct {
	task Task
	err  error

	keyed    bool         // the request has an idempotency key
	claimed  bool         // Redis knew the key before this request
	holder   string       // digest of the task that owns the key in Redis
	existing bool         // duplicate: the key already has this task
	ended    bool         // the key's task already has its result
	recorded bool         // this request wrote the pending record
	refused  bool         // Redis refused the task and certainly does not have it
	shared   *sharedWrite // the record it shares with other tasks; nil if it has its own
	input    string       // object key of the large input that this request wrote
	audio    string       // object key of the recording that the payload names
}

// EnqueueMany accepts many tasks. The outcomes are in the order of the requests. For 200
// tasks it needs one round trip to Redis, and writes one pending record of up to 1 MiB.
// Tasks with idempotency keys have records of their own, which it writes in parallel.
func (c *Client) EnqueueMany(ctx context.Context, requests []Request) []Outcome {
	outcomes := make([]Outcome, 0, len(requests))
	for some := range slices.Chunk(requests, perPipeline) {
		for _, n := range c.accept(ctx, some) {
			outcomes = append(outcomes, Outcome{n.receipt(), n.err})
		}
	}
	return outcomes
}

// receipt returns the receipt of the request. It is empty if the request was refused
// before the task had an id.
func (n *candidate) receipt() Receipt {
	t := n.task
	if t.ID == "" {
		return Receipt{}
	}
	durability := InRedis
	if t.Pending {
		durability = InStore
	}
	return Receipt{ID: t.ID, Kind: t.Kind, Lane: t.Lane, Model: t.Model, Durability: durability, Existing: n.existing}
}

// accept runs all requests through the steps of acceptance: check, claim the idempotency
// key, store the input and the pending record, enqueue.
func (c *Client) accept(ctx context.Context, requests []Request) []*candidate {
	now := time.Now()
	all := make([]*candidate, len(requests))
	for i, r := range requests {
		var o Options
		for _, set := range r.Options {
			set(&o)
		}
		n := &candidate{keyed: o.IdempotencyKey != ""}
		n.task, n.err = c.prepare(r.Payload, o, now)
		if p, ok := plain(r.Payload); ok {
			if recording, ok := p.(Transcription); ok {
				n.audio = recording.Audio.Key
			}
		}
		if c.cfg.Trace != nil {
			n.task.Trace = c.cfg.Trace(ctx)
		}
		all[i] = n
	}
	var memory string // asked before the keys and the bucket are, so that it is not newer than their answers
	if slices.ContainsFunc(all, func(n *candidate) bool { return n.err == nil }) {
		memory = c.took.known(ctx, c.cfg.Redis)
	}
	c.claim(ctx, all)
	records := c.share(all)

	var g errgroup.Group
	g.SetLimit(recordsOnce)
	for _, n := range all {
		if n.err == nil {
			g.Go(func() error {
				n.err = c.store(ctx, n)
				return nil
			})
		}
	}
	_ = g.Wait() // each candidate keeps its own error
	for _, w := range records {
		g.Go(func() error {
			w.write(ctx, c.cfg.Store)
			return nil
		})
	}
	_ = g.Wait()

	var queue []*candidate
	for _, n := range all {
		if n.err == nil && !n.ended {
			queue = append(queue, n)
		}
	}
	if len(queue) > 0 {
		c.push(ctx, queue, now, memory)
	}
	c.observe(queue)
	return all
}

// observe reports the tasks that this call has put into the queue.
func (c *Client) observe(queue []*candidate) {
	if c.cfg.Observer == nil {
		return
	}
	for _, n := range queue {
		if n.err == nil && !n.existing {
			e := n.task.Event(EventAccepted)
			e.Time = n.task.CreatedAt
			c.cfg.Observer.Observe(e)
		}
	}
}

// recordsFresh is the age up to which the reconciler ignores a pending record, because
// its writer may still be enqueuing the task.
const recordsFresh = 30 * time.Second

// push enqueues candidates. It removes the pending record of a task that Redis refused,
// so that a plain error means that the task never runs. memory is the name of the memory of
// Redis when the acceptance began.
func (c *Client) push(ctx context.Context, queue []*candidate, begun time.Time, memory string) {
	some := make([]Task, len(queue))
	for i, n := range queue {
		some[i] = n.task
		// Workers check the bucket for a result unless the task is certainly new. A
		// client without a Store cannot know whether a keyed task is new.
		if !n.claimed && !n.existing && (!n.keyed || c.cfg.Store != nil) {
			some[i].Redis = memory
		}
	}
	pushed := c.queueAll(ctx, some)
	for i, p := range pushed {
		queue[i].refused = p.Refused()
	}
	for i, p := range pushed {
		n := queue[i]
		switch {
		case p.Err == nil && p.Existing != nil && n.keyed:
			n.existing = true
			n.err = c.compareQueued(ctx, n, p.Existing)
		case p.Err == nil:
		case !n.keyed && p.Refused() && time.Since(begun) < recordsFresh && c.withdraw(n) == nil:
			n.err = fmt.Errorf("enqueue %s: %w", n.task.ID, p.Err)
		default:
			// The outcome is unknown: the script may have run although its reply was
			// lost, a keyed task may belong to another caller, or the reconciler may have
			// found a record older than recordsFresh.
			n.err = fmt.Errorf("enqueue %s: %w: %w", n.task.ID, ErrUnknownOutcome, p.Err)
		}
	}
}

// compareQueued refuses a keyed candidate if the queue has another task under its key.
// Neither Redis nor the bucket knew the key before.
func (c *Client) compareQueued(ctx context.Context, n *candidate, message []byte) error {
	queued, _, err := DecodeMessage(message)
	if err != nil || queued.Digest == n.task.Digest {
		return nil
	}
	_ = c.withdraw(n) // the reconciler removes leftovers
	return c.giveKeyTo(ctx, n, queued.Digest)
}

// withdraw removes the pending record and the input that this request wrote, because its
// task will not run. It also works after the caller's context has ended.
func (c *Client) withdraw(n *candidate) error {
	if c.cfg.Store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch {
	case n.shared != nil:
		if err := n.shared.withdraw(ctx, c.cfg.Store); err != nil {
			return err
		}
	case n.recorded:
		if err := c.cfg.Store.Delete(ctx, objects.PendingKey(n.task.Tenant, n.task.ID)); err != nil {
			return err
		}
	}
	if n.input != "" {
		c.discardInput(n.input)
	}
	return nil
}

// store writes a large input, and then the pending record, to the bucket. It may find
// that a keyed task already exists.
func (c *Client) store(ctx context.Context, n *candidate) error {
	if c.cfg.Store == nil {
		return nil // claim has already decided
	}
	if n.audio != "" {
		if err := objects.ClaimUploads(ctx, c.cfg.Store, n.audio); err != nil {
			return err
		}
	}
	large := len(n.task.Payload) > inRedis
	// The common case, a new task with a small payload, skips the check of the bucket:
	// the create-only write of the record is enough.
	if n.keyed && (large || n.claimed || !n.task.Pending) {
		if found, err := c.joinExisting(ctx, n); found || err != nil {
			return err
		}
	}
	if large {
		if err := c.storeInput(ctx, n); err != nil {
			return err
		}
	}
	switch {
	case !n.task.Pending || n.shared != nil:
		return nil
	case n.keyed:
		return c.recordOnce(ctx, n)
	}
	document, err := json.Marshal(n.task)
	if err != nil {
		return fmt.Errorf("encode the task: %w", err)
	}
	n.recorded, err = putRecord(ctx, c.cfg.Store, objects.PendingKey(n.task.Tenant, n.task.ID), document)
	return err
}

// putRecord writes a pending record and reports whether it may exist.
func putRecord(ctx context.Context, s storage.Store, key string, document []byte) (bool, error) {
	err := s.Put(ctx, key, bytes.NewReader(document), "application/json")
	switch {
	case errors.Is(err, storage.ErrNotWritten): // the task never runs without its record
		return false, fmt.Errorf("write the pending record: %w", err)
	case err != nil:
		return true, fmt.Errorf("%w: write the pending record: %w", ErrUnknownOutcome, err)
	}
	return true, nil
}

// storeInput writes a payload that is too large for Redis to the bucket. The object key
// contains the payload's digest, so another payload cannot overwrite it.
func (c *Client) storeInput(ctx context.Context, n *candidate) error {
	key := inputKey(n.task)
	if err := c.cfg.Store.Put(ctx, key, bytes.NewReader(n.task.Payload), "application/json"); err != nil {
		err = fmt.Errorf("store the input: %w", err)
		switch {
		case n.keyed: // the input may belong to another caller's task, which runs
			err = fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		case !errors.Is(err, storage.ErrNotWritten):
			c.discardInput(key)
		}
		return err
	}
	n.input, n.task.InputKey, n.task.Payload = key, key, nil
	return nil
}

// discardInput deletes the input of a task that will not run. It also works after the
// caller's context has ended. An input that is left over is garbage, not a task.
func (c *Client) discardInput(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = c.cfg.Store.Delete(ctx, key)
}

func readJSON(ctx context.Context, s storage.Store, key string, into any) error {
	document, err := objects.Read(ctx, s, key)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(document, into); err != nil {
		return fmt.Errorf("decode %s: %w: %w", key, errDocument, err)
	}
	return nil
}

// errDocument means that an object in the bucket is not the expected JSON.
var errDocument = errors.New("the document is damaged")
