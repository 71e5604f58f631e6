package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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

// batch is some requests on their way through acceptance, side by side.
type batch struct {
	tasks    []Task
	accepted []Accepted
	errs     []error
	keyed    []bool
}

// EnqueueMany accepts many tasks; receipts and errors stand in the order of the
// requests. Records are written in parallel and Redis is asked in one round trip for
// every 200 tasks.
func (c *Client) EnqueueMany(ctx context.Context, requests []Request) ([]Accepted, []error) {
	accepted, errs := make([]Accepted, 0, len(requests)), make([]error, 0, len(requests))
	for some := range slices.Chunk(requests, perPipeline) {
		b := c.accept(ctx, some)
		accepted, errs = append(accepted, b.accepted...), append(errs, b.errs...)
	}
	return accepted, errs
}

func (c *Client) accept(ctx context.Context, requests []Request) batch {
	n, now := len(requests), time.Now()
	b := batch{make([]Task, n), make([]Accepted, n), make([]error, n), make([]bool, n)}
	var g errgroup.Group
	g.SetLimit(recordsOnce)
	for i, r := range requests {
		var o Options
		for _, set := range r.Options {
			set(&o)
		}
		if b.tasks[i], b.errs[i] = c.prepare(r.Payload, o, now); b.errs[i] != nil {
			continue
		}
		b.keyed[i] = o.IdempotencyKey != ""
		g.Go(func() error {
			b.accepted[i].Existing, b.errs[i] = c.record(ctx, &b.tasks[i], b.keyed[i])
			return nil
		})
	}
	_ = g.Wait() // each has its own error

	var queue []int
	for i, t := range b.tasks {
		if b.errs[i] != nil {
			continue
		}
		a := &b.accepted[i]
		a.ID, a.Kind, a.Lane, a.Model, a.Durability = t.ID, t.Kind, t.Lane, t.Model, InRedis
		if t.Pending {
			a.Durability = InStore
		}
		if !c.ended(ctx, t, a.Existing) {
			queue = append(queue, i)
		}
	}
	if len(queue) > 0 {
		c.push(ctx, b, queue, now)
	}
	return b
}

// recordsFresh is how long nobody but the caller looks at a pending record.
const recordsFresh = 30 * time.Second

// oneAnswer is less than it takes to give a lost answer up.
const oneAnswer = 2 * time.Second

// push enqueues some of the tasks; where that fails their records go, so that an error
// means what it says.
func (c *Client) push(ctx context.Context, b batch, which []int, begun time.Time) {
	some, name := make([]Task, len(which)), c.took.known(ctx, c.cfg.Redis)
	for j, i := range which {
		some[j] = b.tasks[i]
		// Of a twin nothing is known: one that was there, or one that Redis forgot and
		// only the bucket, which was not asked, knows to have ended.
		if !b.accepted[i].Existing && (!b.keyed[i] || c.cfg.Store != nil) {
			some[j].Redis = name
		}
	}
	asked := time.Now()
	errs := c.queueAll(ctx, some)
	// The client asks again by itself where an answer is lost: what took long may have
	// run although the last answer is a no.
	quick := time.Since(asked) < oneAnswer
	for j, err := range errs {
		if err == nil {
			continue
		}
		i := which[j]
		b.errs[i] = fmt.Errorf("enqueue %s: %w", b.tasks[i].ID, err)
		// The script may have run although its answer was lost; a record that another
		// caller may count on is not ours to take back; and one that has grown old may
		// have been found.
		if !b.keyed[i] && refused(err) && quick && time.Since(begun) < recordsFresh && c.withdraw(b.tasks[i]) == nil {
			continue
		}
		b.errs[i] = fmt.Errorf("enqueue %s: %w: %w", b.tasks[i].ID, ErrUnknownOutcome, err)
	}
}

// withdraw removes the record of a task that Redis refused. It is done even when the
// caller has gone.
func (c *Client) withdraw(t Task) error {
	if c.cfg.Store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if t.Pending {
		if err := c.cfg.Store.Delete(ctx, PendingKey(t.Tenant, t.ID)); err != nil {
			return err
		}
	}
	if t.InputKey != "" {
		_ = c.cfg.Store.Delete(ctx, t.InputKey) // what stays is litter, no task
	}
	return nil
}

// record writes what an accepted task needs beside Redis: large input first, then the
// pending record. It reports whether the idempotency key had the task already.
func (c *Client) record(ctx context.Context, t *Task, keyed bool) (existing bool, err error) {
	if c.cfg.Store == nil && len(t.Payload) > withoutBox {
		return false, Problems{{"payload", fmt.Sprintf("has %d bytes, more than %d: give the client a Store for large inputs", len(t.Payload), withoutBox)}}
	}
	if c.cfg.Store != nil && len(t.Payload) > inRedis {
		key := ArtefactKey(t.Tenant, t.ID, "input.json")
		if err := c.cfg.Store.Put(ctx, key, bytes.NewReader(t.Payload), "application/json"); err != nil {
			return false, fmt.Errorf("store the input: %w", err)
		}
		t.InputKey, t.Payload = key, nil
	}
	switch {
	case keyed && t.Pending:
		return c.recordOnce(ctx, t)
	case keyed:
		return c.claimInRedis(ctx, *t)
	case !t.Pending:
		return false, nil
	}
	document, err := json.Marshal(t)
	if err != nil {
		return false, fmt.Errorf("encode the task: %w", err)
	}
	if err := c.cfg.Store.Put(ctx, PendingKey(t.Tenant, t.ID), bytes.NewReader(document), "application/json"); err != nil {
		return false, fmt.Errorf("%w: write the pending record: %w", ErrUnknownOutcome, err)
	}
	return false, nil
}

// recordOnce writes the record of a keyed task unless its twin has one or has ended. The
// record comes first: a twin's record goes after its result is there, so that whoever
// finds no record finds the result.
func (c *Client) recordOnce(ctx context.Context, t *Task) (bool, error) {
	document, err := json.Marshal(t)
	if err != nil {
		return false, fmt.Errorf("encode the task: %w", err)
	}
	key := PendingKey(t.Tenant, t.ID)
	err = c.cfg.Store.Create(ctx, key, bytes.NewReader(document), "application/json")
	switch {
	case errors.Is(err, storage.ErrExists):
		return c.joinTwin(ctx, t)
	case errors.Is(err, errors.ErrUnsupported):
		return false, fmt.Errorf("write the pending record: %w", err)
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

// endedBefore reports whether a keyed task's twin has its result already.
func (c *Client) endedBefore(ctx context.Context, t Task) (bool, error) {
	r, err := c.storedResult(ctx, t.ID)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, sameDigest(r.Digest, t.Digest)
}

func sameDigest(a, b string) error {
	if a != b {
		return ErrIdempotencyMismatch
	}
	return nil
}

// claimInRedis is the same for a task without a record: the digest is kept while Redis
// keeps the task's live record.
func (c *Client) claimInRedis(ctx context.Context, t Task) (bool, error) {
	if c.cfg.Store != nil {
		if ended, err := c.endedBefore(ctx, t); ended || err != nil {
			return ended, err
		}
	}
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
		return fmt.Errorf("decode %s: %w: %w", key, errDocument, err)
	}
	return nil
}

// errDocument: an object of the bucket is not the JSON it should be.
var errDocument = errors.New("the document is damaged")
