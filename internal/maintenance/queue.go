package maintenance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// endsAtOnce is how many tasks are ended concurrently.
const endsAtOnce = 16

// endAll ends tasks concurrently. A task that cannot be ended stays for the next run.
func (f *fleet) endAll(ctx context.Context, found []queue.Found, failure func(tasks.Task) *tasks.TaskError) error {
	var g errgroup.Group
	g.SetLimit(endsAtOnce)
	for _, q := range found {
		g.Go(func() error { return f.end(ctx, q, failure) })
	}
	return g.Wait()
}

// end writes the failure document of a task without an owner and removes the task from
// its queue. A worker that claims the task in between finds the result.
func (f *fleet) end(ctx context.Context, q queue.Found, failure func(tasks.Task) *tasks.TaskError) error {
	task, raw, err := tasks.DecodeMessage(q.Message)
	switch {
	case err == nil:
		err = f.End(ctx, task, nil, failure(task))
	case errors.Is(err, tasks.ErrNewerTask) && task.ID == q.ID:
		why := failure(task)
		if why.Code == tasks.CodeDeadlineExceeded {
			why = f.Overdue(task, err)
		}
		err = f.End(ctx, task, raw, why)
	default:
		err = f.End(ctx, unreadable(objects.DefaultTenant, q.ID), raw, invalid(err.Error()))
	}
	if err != nil {
		return fmt.Errorf("end %s: %w", q.ID, err)
	}
	return f.remove(ctx, q, task)
}

// remove deletes an ended task from its queue; a pending one becomes a tombstone.
func (f *fleet) remove(ctx context.Context, q queue.Found, t tasks.Task) error {
	if t.Model == "" { // its message could not be decoded
		t = stand(q)
	}
	tombstone, err := tasks.Tombstone(t)
	if err != nil {
		return err
	}
	return queue.Remove(ctx, f.Redis, q.Queue, q.ID, t.Model, tombstone)
}

// stand returns a substitute for a task that could not be decoded, complete enough for a
// tombstone.
func stand(q queue.Found) tasks.Task {
	kind, lane, _ := strings.Cut(q.Queue, ":")
	spec, _ := tasks.SpecOf(tasks.Kind(kind))
	t := unreadable(objects.DefaultTenant, q.ID)
	t.Kind, t.Lane, t.Model, t.Deadline = spec.Kind, tasks.Lane(lane), spec.Model(), t.CreatedAt
	return t
}

// unreadable returns a task of which only tenant and id are known.
func unreadable(tenant, id string) tasks.Task {
	return tasks.Task{ID: id, Tenant: tenant, CreatedAt: time.Now().UTC()}
}

func invalid(message string) *tasks.TaskError {
	return &tasks.TaskError{Code: tasks.CodePayloadInvalid, Message: message}
}
