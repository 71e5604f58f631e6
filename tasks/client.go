package tasks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// Config has the settings of a Client.
type Config struct {
	Redis redis.UniversalClient // the caller closes it
	// Store is the bucket of the workers. With a Store, an accepted task survives the
	// loss of Redis, and inputs may be large. Without one, a task is as durable as Redis.
	Store storage.Store
	// Durability is the default durability of tasks. Empty means InStore with a Store and
	// InRedis without one.
	Durability Durability
	Tenant     string // "default" when empty; lower-case letters, digits, - and _, at most 63
	// AllowUnknownModel accepts models that the catalogue does not know or lists as
	// withdrawn.
	AllowUnknownModel bool
	// WebhookNetworks are networks, private ones too, whose receivers a webhook may name, at
	// any port and also by http://. Each worker needs the same in its own settings, and judges
	// the address when it connects. None means public hosts only, by https://.
	WebhookNetworks []netip.Prefix
	// Observer gets an event for each task that this client accepts; nil for none.
	Observer Observer
	// Trace returns the span of a request as a traceparent
	// (https://www.w3.org/TR/trace-context/), under which workers with traces put the spans of
	// the task; empty for none. docs/traces.md shows it with OpenTelemetry. Nil means none.
	Trace func(context.Context) string
}

// tenantName matches valid tenants. The tenant is the first segment of its object keys.
var tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// Validate reports all invalid settings.
func (c Config) Validate() error {
	var errs []error
	if isNil(c.Redis) {
		errs = append(errs, errors.New("setting Redis is missing"))
	}
	if c.Tenant != "" && !tenantName.MatchString(c.Tenant) {
		errs = append(errs, fmt.Errorf("setting Tenant %s is not valid: it must match %s", quote(c.Tenant), tenantName))
	}
	switch {
	case c.Durability != "" && c.Durability != InStore && c.Durability != InRedis:
		errs = append(errs, fmt.Errorf("setting Accept %s is not valid: it must be %s or %s", quote(string(c.Durability)), InStore, InRedis))
	case c.Durability == InStore && c.Store == nil:
		errs = append(errs, errors.New("setting Accept is store, but Store is missing"))
	}
	return errors.Join(errs...)
}

// isNil reports whether a Redis client is nil or an interface that holds a nil pointer.
func isNil(r redis.UniversalClient) bool {
	v := reflect.ValueOf(r)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// Client enqueues tasks and reads their state and results. It is safe for concurrent use.
type Client struct {
	cfg     Config
	invalid error // result of Config.Validate; every method returns it
	took    server
	queues  foundQueues
}

// NewClient creates a client; there is nothing to close. If the settings are not valid,
// every call returns the error of Config.Validate.
func NewClient(cfg Config) *Client {
	c := newClient(cfg)
	if err := cfg.Validate(); err != nil {
		c.invalid = fmt.Errorf("tasks client: %w", err)
	}
	return c
}

func newClient(cfg Config) *Client {
	if cfg.Tenant == "" {
		cfg.Tenant = objects.DefaultTenant
	}
	return &Client{cfg: cfg, took: newServer()}
}

// Durability names the losses that an accepted task survives.
type Durability string

// InStore costs one write to the bucket per task and survives the loss of Redis. InRedis
// costs nothing extra and is as durable as Redis: with appendfsync everysec, a power
// failure may lose the last second of accepted tasks.
const (
	InStore Durability = "store"
	InRedis Durability = "redis"
)

// Receipt is the receipt of an accepted task.
type Receipt struct {
	ID         string     `json:"id"`
	Kind       Kind       `json:"kind"`
	Lane       Lane       `json:"lane"`
	Model      string     `json:"model"`
	Durability Durability `json:"durability"`
	Existing   bool       `json:"existing"` // duplicate: the idempotency key already had this task
}

// Request is one task for EnqueueMany.
type Request struct {
	Payload Payload
	Options []Option
}

// Outcome is the receipt or the error of one Request. With an error, the receipt has at
// most an id: that of the task if the outcome is unknown, else the one it would have had.
type Outcome struct {
	Receipt
	Err error // the error that Enqueue would return
}

var (
	// ErrIdempotencyMismatch: the idempotency key belongs to a task with another payload.
	ErrIdempotencyMismatch = errors.New("this idempotency key belongs to a task with another payload")
	// ErrUnknownOutcome: the reply of Redis or the bucket was lost, so the task may run.
	// Repeat the call with the same idempotency key to find out.
	ErrUnknownOutcome = errors.New("unknown outcome: the task may run")
	// ErrNotFound: neither Redis nor the bucket has the task.
	ErrNotFound = errors.New("task not found")
	// ErrEnded: the task already has a result.
	ErrEnded = errors.New("task has ended")
	// ErrOverdue: the task's deadline passed long ago, and no worker has ended the task.
	ErrOverdue = errors.New("no worker has ended the task although its deadline passed: does one run?")
)

// ResultInStoreError reports that a task has ended and that only the bucket has its
// result. The result is too large for Redis, the task ended long ago, or its producer had
// a Store.
type ResultInStoreError struct {
	ID     string
	Status Status // empty when unknown
}

func (e *ResultInStoreError) Error() string {
	status := "ended"
	if e.Status != "" {
		status = string(e.Status)
	}
	return "task " + e.ID + " has " + status + ", and its result is in the bucket only: reading it needs Config.Store"
}

// Enqueue accepts one task. It returns a ValidationError if the input is not valid. An error means
// that the task never runs, except ErrUnknownOutcome.
func (c *Client) Enqueue(ctx context.Context, p Payload, opts ...Option) (Receipt, error) {
	out := c.EnqueueMany(ctx, []Request{{p, opts}})[0]
	return out.Receipt, out.Err
}
