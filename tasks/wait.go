package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
)

const (
	firstPause  = 50 * time.Millisecond
	longPause   = time.Second
	bucketPause = 15 * time.Second // longest pause between two requests to the bucket
	// existsEvery is how often Wait checks that the task still exists. existsAgain is the
	// delay of the second check after the task was not found.
	existsEvery = 15 * time.Second
	existsAgain = 5 * time.Second
	// missingAfter is how long the bucket may lack the result of an ended task.
	missingAfter = 30 * time.Second
	// overdueAfter is how long after its deadline a task may still run. It covers the
	// last call, storing the answer, and noticing a dead worker.
	overdueAfter = 15 * time.Minute
)

// Wait returns a task's result once the task has ended; a failed result is not an error.
// Wait returns an error when ctx ends, when the task does not exist (ErrNotFound), or
// when no worker has ended it long after its deadline (ErrOverdue). Without a Store it
// returns a *ResultInStoreError if only the bucket has the result.
//
// All waits of a process on one Redis client share a subscription, which tells them of the
// end. A process without one asks Redis every 50 ms at first, and subscribes after some
// seconds. Where the subscription does not work, Wait asks Redis every second. It asks the
// bucket, which bills each request, at intervals of up to 15 seconds.
func (c *Client) Wait(ctx context.Context, id string) (*Result, error) {
	if c.invalid != nil {
		return nil, c.invalid
	}
	w := waiter{c: c, id: id, rest: firstPause, exists: time.Now().Add(existsEvery)}
	defer w.stopListening()
	for pause := firstPause; ; pause = min(pause*5/4, longPause) {
		if w.listener == nil && (pause == longPause || taskstate.Listens(c.cfg.Redis)) {
			w.listener = taskstate.Listen(c.cfg.Redis, id)
		}
		r, err := w.look(ctx)
		if r != nil || err != nil {
			return r, err
		}
		if err := w.pause(ctx, pause); err != nil {
			return nil, fmt.Errorf("wait for %s: %w", id, err)
		}
	}
}

// pause waits until the task may have ended, at most for d if nobody tells of the end.
func (w *waiter) pause(ctx context.Context, d time.Duration) error {
	var woken <-chan struct{}
	var timeout <-chan time.Time
	if w.listener != nil {
		woken = w.listener.C
	}
	if w.listener == nil || !w.listener.Heard() || !w.ended.IsZero() || w.absent {
		timeout = time.After(d)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-woken:
	case <-timeout:
	}
	return nil
}

func (w *waiter) stopListening() {
	if w.listener != nil {
		w.listener.Close()
	}
}

// waiter is the state of one call of Wait.
type waiter struct {
	c  *Client
	id string

	asked    time.Time     // time of the last request to the bucket
	rest     time.Duration // pause before the next request to the bucket
	ended    time.Time     // when Redis first reported the end; zero before
	exists   time.Time     // when to check that the task still exists
	absent   bool          // the last check did not find the task
	deadline time.Time     // the task's deadline; zero when unknown

	listener *taskstate.Listener // nil until the wait is a long one
}

// look returns the result, or an error that ends the wait. It returns neither while the
// task has not ended.
func (w *waiter) look(ctx context.Context) (*Result, error) {
	r, err := w.c.publishedResult(ctx, w.id)
	if err != nil && w.c.cfg.Store != nil {
		r, err = w.askBucket(ctx, err)
	}
	if r != nil || !errors.Is(err, ErrNotFound) {
		return r, err
	}
	if !w.ended.IsZero() && time.Since(w.ended) > missingAfter {
		return nil, fmt.Errorf("wait for %s: it has ended, but the client's Store has no result: is it the workers' bucket?", w.id)
	}
	if !w.ended.IsZero() || time.Now().Before(w.exists) {
		return nil, nil
	}
	return nil, w.askExists(ctx)
}

// askBucket reads the result from the bucket: at once after Redis reported the end,
// otherwise at intervals.
func (w *waiter) askBucket(ctx context.Context, published error) (*Result, error) {
	ended := errors.As(published, new(*ResultInStoreError)) || errors.Is(published, ErrIdempotencyMismatch)
	if ended && w.ended.IsZero() {
		w.ended = time.Now()
	}
	if w.ended.IsZero() && time.Since(w.asked) < w.rest {
		return nil, ErrNotFound
	}
	r, err := w.c.storedResult(ctx, w.id)
	w.asked, w.rest = time.Now(), min(w.rest*5/4, bucketPause)
	return r, err
}

// askExists ends the wait for a task that two checks in a row did not find, or that is
// overdue.
func (w *waiter) askExists(ctx context.Context) error {
	found, err := w.c.alive(ctx, w)
	switch {
	case err != nil:
		w.exists = time.Now().Add(existsEvery) // Redis or the bucket is unavailable
	case !found && w.absent:
		return fmt.Errorf("wait for %s: %w", w.id, ErrNotFound)
	case !found: // the task may have ended since its result was read
		w.absent, w.exists, w.asked = true, time.Now().Add(existsAgain), time.Time{}
	case !w.deadline.IsZero() && time.Since(w.deadline) > overdueAfter:
		return fmt.Errorf("wait for %s: %w", w.id, ErrOverdue)
	default:
		w.absent, w.exists = false, time.Now().Add(existsEvery)
	}
	return nil
}

// alive reports whether the task is queued, active or has a pending record. It also
// stores the task's deadline.
func (c *Client) alive(ctx context.Context, w *waiter) (bool, error) {
	name, err := c.findQueue(ctx, w.id)
	if err == nil && w.deadline.IsZero() {
		message, err := queue.Message(ctx, c.cfg.Redis, name, w.id)
		if err != nil {
			return false, err
		}
		t, _, _ := DecodeMessage(message)
		w.deadline = t.Deadline
	}
	if err == nil || !errors.Is(err, ErrNotFound) {
		return err == nil, err
	}
	if state, err := taskstate.ReadState(ctx, c.cfg.Redis, w.id)(); state.Owned || err != nil {
		return state.Owned, err
	}
	info, err := c.getRecord(ctx, w.id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	w.deadline = info.Deadline
	return err == nil, err
}
