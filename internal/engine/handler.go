package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// Handler describes how the tasks of one kind are run.
type Handler struct {
	Kind tasks.Kind
	// Run does the work of a task: it makes the calls and returns the output. See HandlerOf.
	Run func(context.Context, *Call, tasks.Payload) (*Output, error)
	// SingleCall reports whether a task needs exactly one call and no work before it. The
	// first run of such a task claims it and counts the call in one step. Nil means never.
	SingleCall func(tasks.Task) bool
	// Checkpoint is set when the output has artefacts: the paid answer is then stored before
	// the result, and a later run finishes it without a call.
	Checkpoint bool
	// Slots is how many tasks run at once for each call that Config.Concurrency allows; 0
	// means 1. Kinds whose tasks share calls need more.
	Slots int
	// Scratch returns the names of objects that runs may have stored for themselves. They
	// are deleted when the task has ended. Nil means none.
	Scratch func(tasks.Task) []string
}

// HandlerOf adapts a function for one payload type to Handler.Run.
func HandlerOf[P tasks.Payload](run func(context.Context, *Call, P) (*Output, error)) func(context.Context, *Call, tasks.Payload) (*Output, error) {
	return func(ctx context.Context, c *Call, payload tasks.Payload) (*Output, error) {
		p, ok := payload.(P)
		if !ok {
			return nil, fmt.Errorf("a handler of %T got %T", p, payload)
		}
		return run(ctx, c, p)
	}
}

// Output is the outcome of a kind's work.
type Output struct {
	Result any // the kind's Output of package tasks
	Files  []File
}

// File is an artefact before it is stored.
type File struct {
	Name        string // "image.png"
	ContentType string
	Body        io.ReadSeeker
	stored      bool // an earlier run has stored it
}

// Call gives a handler its tools: the task, the API, and the ways to pay for a call.
type Call struct {
	AI     *workersai.Client
	Model  string
	Tenant string
	j      *job
}

// Send makes one call, whose price is at most the given number of neurons: it acquires a
// permit from the gate, counts the call and runs send, which sends one request. The context
// of send ends only with the kind's time limit.
func (c *Call) Send(ctx context.Context, most float64, send func(context.Context) (workersai.Meta, error)) error {
	c.j.setMost(most)
	return c.j.call(ctx, send)
}

// Coalesce sends texts of the task, whose price is at most the given number of neurons, in
// one call, together with those of other tasks of the same model, lane and options. It
// returns one answer per text. send makes the call for any of these tasks, so it may depend
// on the model and the options only.
func Coalesce[T any](ctx context.Context, c *Call, options string, texts []string, most float64, send func(context.Context, []string) ([]T, workersai.Meta, error)) ([]T, error) {
	c.j.setMost(most)
	plan, err := c.j.withinBudget(ctx)
	if err != nil {
		return nil, err
	}
	to := route{model: c.j.task.Model, kind: c.j.task.Kind, lane: c.j.task.Lane, options: options, budget: plan.String()}
	return groupOf(c.j.engine, to, send).submit(ctx, c.j, texts, most)
}

// Part returns the answer to one of several parts of a task: that of an earlier run if it is
// stored and valid, else that of ask. Part stores the answer before it returns, so that each
// part is paid for once.
func Part[T any](ctx context.Context, c *Call, number int, valid func(T) bool, ask func() (T, error)) (answer T, err error) {
	stored, err := c.j.engine.storedAnswer(ctx, c.j, number)
	if err != nil {
		return answer, err
	}
	if stored != nil && json.Unmarshal(stored.Output, &answer) == nil && valid(answer) {
		return answer, nil
	}
	if answer, err = ask(); err != nil {
		return answer, err
	}
	return answer, c.j.storePart(ctx, number, answer)
}

// Cancellable returns a context for work before a call. The task's deadline, its
// cancellation and the stop of the worker end it.
func (c *Call) Cancellable(ctx context.Context) (context.Context, context.CancelFunc) {
	return c.j.waitContext(ctx)
}

// Key returns the key of an object of the task.
func (c *Call) Key(name string) string { return c.j.key(name) }

// ErrNoObject means that the bucket has no object at a key.
var ErrNoObject = errors.New("no such object")

// Stored reports whether an earlier run has stored an object of the task.
func (c *Call) Stored(ctx context.Context, name string) (bool, error) {
	if c.j.fresh {
		return false, nil
	}
	_, err := c.Size(ctx, c.Key(name))
	if errors.Is(err, ErrNoObject) {
		return false, nil
	}
	return err == nil, err
}

// Size returns the size of an object of the bucket, or ErrNoObject.
func (c *Call) Size(ctx context.Context, key string) (int64, error) {
	info, err := c.j.engine.cfg.Store.Head(ctx, key)
	return info.Size, missingObject(err)
}

// Open opens an object of the bucket, or returns ErrNoObject. The caller closes it.
func (c *Call) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	body, err := c.j.engine.cfg.Store.Get(ctx, key)
	return body, missingObject(err)
}

// Put stores an object of the task, which Handler.Scratch must name.
func (c *Call) Put(ctx context.Context, name string, body io.Reader, contentType string) error {
	return c.j.engine.cfg.Store.Put(ctx, c.Key(name), body, contentType)
}

func missingObject(err error) error {
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return ErrNoObject
	}
	return err
}

// UnusableError is the error for a paid answer that cannot be used.
type UnusableError struct{ Err error }

func (e *UnusableError) Error() string { return e.Err.Error() }
func (e *UnusableError) Unwrap() error { return e.Err }

// AttemptError is an error that counts as an attempt, although no call was sent. After the
// kind's last attempt the task fails with Code.
type AttemptError struct {
	Code string
	Err  error
}

func (e *AttemptError) Error() string { return e.Err.Error() }
func (e *AttemptError) Unwrap() error { return e.Err }
