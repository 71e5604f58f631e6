package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
)

// An idempotency key belongs to the first task that uses it, identified by its digest.
// The task's live record in Redis decides between concurrent callers, whatever their
// durability, with or without a Store. If Redis has forgotten the key, the pending record
// and the result in the bucket decide.

// claim claims the idempotency keys of all keyed candidates in one round trip.
func (c *Client) claim(ctx context.Context, all []*candidate) {
	var keyed []*candidate
	for _, n := range all {
		if n.keyed && n.err == nil {
			keyed = append(keyed, n)
		}
	}
	if len(keyed) == 0 {
		return
	}
	claims := make([]taskstate.KeyClaim, len(keyed))
	for i, n := range keyed {
		claims[i] = taskstate.KeyClaim{ID: n.task.ID, Digest: n.task.Digest, TTL: secondsTo(n.task.Deadline.Add(taskstate.LiveTTL))}
	}
	for i, owner := range taskstate.ClaimKeys(ctx, c.cfg.Redis, claims) {
		keyed[i].err = c.readClaim(keyed[i], owner)
	}
}

// readClaim stores the reply of Redis about a candidate's key. With a Store, the bucket
// has precedence; see joinExisting.
func (c *Client) readClaim(n *candidate, owner taskstate.KeyOwner) error {
	if owner.Err != nil {
		return fmt.Errorf("%w: claim the idempotency key: %w", ErrUnknownOutcome, owner.Err)
	}
	n.holder = owner.Digest
	n.claimed = n.holder != ""
	if !n.claimed {
		n.holder = n.task.Digest
	}
	if c.cfg.Store != nil {
		return nil
	}
	n.ended = owner.Ended
	n.existing = n.ended
	if n.holder != n.task.Digest {
		return ErrIdempotencyMismatch
	}
	return nil
}

// recordOnce writes the pending record of a keyed task unless its key already has a
// record or a result. It looks for a result only after it has written the record: a
// task's record is deleted only after its result is written, so a caller that finds no
// record finds the result.
func (c *Client) recordOnce(ctx context.Context, n *candidate) error {
	document, err := json.Marshal(n.task)
	if err != nil {
		return fmt.Errorf("encode the task: %w", err)
	}
	key := objects.PendingKey(n.task.Tenant, n.task.ID)
	err = c.cfg.Store.Create(ctx, key, bytes.NewReader(document), "application/json")
	switch {
	case errors.Is(err, storage.ErrExists):
		found, err := c.joinExisting(ctx, n)
		if err == nil && !found {
			err = fmt.Errorf("%w: the pending record has gone, and there is no result", ErrUnknownOutcome)
		}
		return c.withoutInput(n, err)
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("write the pending record: %w", err)
	case err != nil:
		return fmt.Errorf("%w: write the pending record: %w", ErrUnknownOutcome, err)
	}
	n.recorded = true
	r, err := c.storedResult(ctx, n.task.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("%w: look for a result under the idempotency key: %w", ErrUnknownOutcome, err)
	}
	// The key's task has ended, so this record is useless. Recover removes it if this
	// delete fails.
	if c.cfg.Store.Delete(ctx, key) == nil {
		n.recorded = false
	}
	return c.withoutInput(n, c.joinEnded(ctx, n, r))
}

// withoutInput removes the input of a candidate whose key belongs to another task.
func (c *Client) withoutInput(n *candidate, err error) error {
	if errors.Is(err, ErrIdempotencyMismatch) {
		_ = c.withdraw(n)
	}
	return err
}

// joinExisting turns a keyed candidate into the task that owns its key in the bucket. If
// the bucket has no such task, found is false and the claim in Redis stands. A result
// takes precedence over a record, because recordOnce may be about to delete that record.
func (c *Client) joinExisting(ctx context.Context, n *candidate) (found bool, err error) {
	var record Task
	missing := readJSON(ctx, c.cfg.Store, objects.PendingKey(n.task.Tenant, n.task.ID), &record)
	if missing != nil && !errors.Is(missing, storage.ErrNotFound) {
		return false, fmt.Errorf("%w: read the pending record of the idempotency key: %w", ErrUnknownOutcome, missing)
	}
	r, err := c.storedResult(ctx, n.task.ID)
	switch {
	case err == nil:
		return true, c.joinEnded(ctx, n, r)
	case !errors.Is(err, ErrNotFound):
		return false, fmt.Errorf("%w: look for a result under the idempotency key: %w", ErrUnknownOutcome, err)
	case missing == nil && record.Digest != n.task.Digest:
		return true, c.giveKeyTo(ctx, n, record.Digest)
	case missing == nil:
		c.correctHolder(ctx, n, n.task.Digest)
		n.task, n.existing = record, true
		return true, nil
	case n.holder != n.task.Digest:
		return false, ErrIdempotencyMismatch
	}
	return false, nil
}

// joinEnded turns a keyed candidate into the ended task that owns its key. A result
// without a digest belongs to a task whose message was damaged.
func (c *Client) joinEnded(ctx context.Context, n *candidate, r *Result) error {
	if r.Digest != "" && r.Digest != n.task.Digest {
		return c.giveKeyTo(ctx, n, r.Digest)
	}
	c.correctHolder(ctx, n, n.task.Digest)
	n.existing, n.ended = true, true
	return nil
}

// giveKeyTo refuses a candidate and returns its key to the task with another digest.
func (c *Client) giveKeyTo(ctx context.Context, n *candidate, digest string) error {
	c.correctHolder(ctx, n, digest)
	return ErrIdempotencyMismatch
}

// correctHolder stores in Redis the digest that owns a key according to the bucket or the
// queue. A failure is harmless: a caller that meets the wrong digest in Redis checks the
// bucket.
func (c *Client) correctHolder(ctx context.Context, n *candidate, digest string) {
	if n.holder != digest {
		_ = taskstate.CorrectKey(ctx, c.cfg.Redis, n.task.ID, n.holder, digest)
	}
}

func secondsTo(t time.Time) int { return int(max(time.Until(t), 0).Seconds()) }
