package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
)

// A result must be storable before it is paid for. All requests of a worker to the bucket
// go through one circuit breaker. While it is open no call is sent, and tasks wait before
// they ask the gate, with their attempts refunded.

// bucketPatience is how long a task waits in place for the bucket. Afterwards the task returns
// to the queue, where a worker that reaches the bucket may take it.
const bucketPatience = 30 * time.Second

// bucketReady returns nil while the bucket takes results, else the breaker's error.
func (e *Engine) bucketReady(ctx context.Context) error { return e.bucket.Ready(ctx) }

// awaitBucket waits until the bucket takes results, but no longer than bucketPatience and
// not past the task's deadline, its cancellation or the stop of the worker.
func (e *Engine) awaitBucket(ctx context.Context, j *job) error {
	turn, stop := j.waitContext(ctx)
	defer stop()
	waiting, cancel := context.WithTimeout(turn, bucketPatience)
	defer cancel()
	err := e.bucket.Wait(waiting)
	if err != nil && turn.Err() != nil {
		return context.Cause(turn)
	}
	return err
}

// bucketPause returns the delay of a retry after the bucket failed. The delay is longer for
// a task that has already waited for an open breaker.
func bucketPause(err error) time.Duration {
	if errors.As(err, new(*objects.OpenError)) {
		return bucketPatience/2 + rand.N(bucketPatience/2)
	}
	return 2*time.Second + jitter(4*time.Second)
}

// checkBucket returns an error if the bucket failed the preflight: it can never take a
// result. A bucket that is only unavailable is checked again before the first call.
func (e *Engine) checkBucket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := e.bucketReady(ctx)
	if refused, ok := errors.AsType[*objects.OpenError](err); ok && errors.Is(err, errors.ErrUnsupported) {
		return refused.Reason
	}
	return nil
}

// storingContext returns a context for storing a paid answer. It ends with its parent, or grace
// after the worker's stop.
func (e *Engine) storingContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.stopping, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
			cancel()
		}
	})
	return ctx, func() { stop(); cancel() }
}

// refusedObject is the error for an object that the bucket refuses although it takes others.
type refusedObject struct{ err error }

func (e *refusedObject) Error() string {
	return "the bucket takes other objects but not this one: " + e.err.Error()
}
func (e *refusedObject) Unwrap() error { return e.err }

// persist repeats a failed write of paid data, since giving up would mean paying again.
// While the bucket is unavailable, persist waits until ctx ends. It returns *refusedObject
// when a write fails for grace although the bucket works.
func (e *Engine) persist(ctx context.Context, write func(context.Context) error) error {
	left := grace
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		begun := time.Now()
		err := attemptWrite(ctx, write)
		if err == nil || !objects.Unavailable(err) {
			return err
		}
		if wait(ctx, pause) != nil {
			return err
		}
		left -= time.Since(begun)
		if e.bucket.Wait(ctx) != nil {
			return err
		}
		if left <= 0 {
			return &refusedObject{err}
		}
	}
}

// attemptWrite bounds one attempt of a write.
func attemptWrite(ctx context.Context, write func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	return write(ctx)
}
