package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// Config of a Client.
type Config struct {
	Redis redis.UniversalClient // the caller's to close
	// Store is the bucket of the workers. With it an accepted task survives the loss
	// of Redis, and inputs may be large; without it a task is as durable as Redis.
	Store storage.Store
	// Accept is what tasks survive with unless they say otherwise; empty means InStore
	// with a Store and InRedis without.
	Accept Durability
	Tenant string // "default" when empty
	// AllowUnknownModel lets models through that the catalogue does not know.
	AllowUnknownModel bool
}

// Client puts tasks into the queue and finds them again. It is safe for concurrent
// use.
type Client struct {
	cfg  Config
	took server
}

// NewClient makes a client; there is nothing to close.
func NewClient(cfg Config) *Client {
	if cfg.Tenant == "" {
		cfg.Tenant = "default"
	}
	return &Client{cfg: cfg, took: newServer()}
}

// Durability is what an accepted task survives with.
type Durability string

// InStore costs one put a task and survives the loss of Redis. InRedis costs nothing
// more and is as durable as Redis is: with appendfsync everysec a power cut may take
// the last second of accepted tasks along.
const (
	InStore Durability = "store"
	InRedis Durability = "redis"
)

// Accepted is the receipt of a task.
type Accepted struct {
	ID         string     `json:"id"`
	Kind       Kind       `json:"kind"`
	Lane       Lane       `json:"lane"`
	Model      string     `json:"model"`
	Durability Durability `json:"durability"`
	Existing   bool       `json:"existing"` // the idempotency key had this task already
}

// Request is one task of EnqueueMany.
type Request struct {
	Payload Payload
	Options []Option
}

var (
	// ErrIdempotencyMismatch: the key belongs to a task of other content.
	ErrIdempotencyMismatch = errors.New("this idempotency key belongs to a task with another payload")
	// ErrUnknownOutcome: the answer of Redis or the bucket was lost, so the task may run
	// or not. Repeating the call with the same idempotency key settles it.
	ErrUnknownOutcome = errors.New("unknown outcome: the task may run")
	// ErrNotFound: neither Redis nor the bucket knows the task.
	ErrNotFound = errors.New("task not found")
	// ErrEnded: the task has a result already.
	ErrEnded = errors.New("task has ended")
)

// Enqueue accepts one task. What is wrong with it comes as Problems; an error means
// that it never runs, except ErrUnknownOutcome.
func (c *Client) Enqueue(ctx context.Context, p Payload, opts ...Option) (Accepted, error) {
	accepted, errs := c.EnqueueMany(ctx, []Request{{p, opts}})
	return accepted[0], errs[0]
}

// Wait returns a task's result once it has ended; a failed result is no error. It
// asks Redis every 50 ms at first and every second later, and the bucket, which is
// paid by the request, up to every 15 seconds.
func (c *Client) Wait(ctx context.Context, id string) (*Result, error) {
	var (
		asked time.Time // the bucket
		rest  = firstPause
	)
	for pause := firstPause; ; pause = min(pause*5/4, time.Second) {
		r, ended, err := c.announced(ctx, id)
		if err != nil && c.cfg.Store != nil {
			err = ErrNotFound
			if ended || time.Since(asked) >= rest {
				r, err = c.storedResult(ctx, id)
				asked, rest = time.Now(), min(rest*5/4, 15*time.Second)
			}
		}
		if err == nil || !errors.Is(err, ErrNotFound) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", id, ctx.Err())
		case <-time.After(pause):
		}
	}
}

const firstPause = 50 * time.Millisecond
