package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// announce publishes in Redis that a task has ended, and ends its run. It adds a small
// result for a producer without a Store; all other results are read from the bucket. It
// returns an error only if the producer, or the receiver of its webhook, would not learn of
// the end otherwise. announced says that it was announced before, so that its cost is counted.
func (e *Engine) announce(ctx context.Context, j *job, r tasks.Result, document []byte, announced bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	end := taskstate.End{Status: string(r.Status)}
	if len(document) <= taskstate.PublishedLimit {
		switch j.task.PublishIn() {
		case tasks.InRedis:
			end.Published = document
		case "":
			end.InRecord = document
		}
	}
	pipe := e.cfg.Redis.Pipeline()
	overtaken := e.registrations.watch()
	j.mayCall.Store(false)
	ended := taskstate.Finish(ctx, e.cfg.Redis, pipe, j.task.ID, end)
	done := pipe.ZRem(ctx, queue.DeadlinesKey(tasks.Queue(j.task.Kind, j.task.Lane)), j.task.ID)
	told := e.callAnnounceHook(ctx, pipe, j, r)
	settled := func() error { return nil }
	if e.cfg.Hooks.Settle != nil && r.Status != "" && !announced {
		settled = e.cfg.Hooks.Settle(ctx, pipe, j.task.Tenant, r)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	finished := ended()
	if err := settled(); err != nil {
		e.cfg.Log.Warn("costs wait for Redis: they join the ledger with the next task, or by neuronmill usage --rebuild", "task", j.task.ID, "error", clean(err.Error()))
	}
	if err := told(); err != nil {
		return &redisError{fmt.Errorf("tell of the end: %w", err)}
	}
	if err := finished; err != nil && j.task.PublishIn() != tasks.InStore {
		return &redisError{fmt.Errorf("publish the result: %w", err)}
	}
	if err := errors.Join(finished, done.Err()); err != nil {
		e.cfg.Log.Debug("end of a task not announced", "task", j.task.ID, "error", clean(err.Error()))
		return nil
	}
	if j.held && overtaken() {
		e.late.add(j.task.ID, nil)
	}
	j.held = false
	return nil
}

// callAnnounceHook adds the commands of the hook to a pipeline. told returns their
// errors once it has run.
func (e *Engine) callAnnounceHook(ctx context.Context, pipe redis.Pipeliner, j *job, r tasks.Result) (told func() error) {
	if e.cfg.Hooks.Announce == nil || r.Status == "" {
		return func() error { return nil }
	}
	before := pipe.Len()
	e.cfg.Hooks.Announce(ctx, pipe, j.task, r)
	commands := pipe.Cmds()[before:]
	return func() error {
		var errs []error
		for _, c := range commands {
			errs = append(errs, c.Err())
		}
		return errors.Join(errs...)
	}
}

// announceStored announces a result that another run stored, or this run with a write whose
// reply was lost. The run that stored it may have died before it announced the result or
// listed the failure.
func (e *Engine) announceStored(ctx context.Context, j *job) error {
	document, err := e.readResult(ctx, j)
	if err != nil {
		return err
	}
	var r tasks.Result
	if document == nil || json.Unmarshal(document, &r) != nil {
		return e.announce(ctx, j, tasks.Result{}, nil, true) // removed or damaged: the task has ended all the same
	}
	if r.Status == tasks.Failed && r.Error != nil {
		if err := tasks.ListFailure(ctx, e.cfg.Store, j.task.Tenant, r, j.document, false); err != nil {
			return err
		}
	}
	j.observeEnd(r, true)
	known, err := e.readCounters(ctx, j.task.ID)
	if err != nil {
		return err
	}
	return e.announce(ctx, j, r, document, known.ended)
}

// readResult reads the stored result of a task; nil when there is none.
func (e *Engine) readResult(ctx context.Context, j *job) ([]byte, error) {
	document, err := objects.Read(ctx, e.cfg.Store, objects.ResultKey(j.task.Tenant, j.task.ID))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	return document, nil
}

// document returns the task as it is kept beside a failure: the queued message itself if it
// could not be decoded.
func (j *job) document() ([]byte, error) {
	if j.raw != nil {
		return j.raw, nil
	}
	task := j.task
	task.Redis = ""
	return json.Marshal(task)
}
