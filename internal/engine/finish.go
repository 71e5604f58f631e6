package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// finish ends a run: it applies the retry policy to err and cleans up. Nil acknowledges
// the task, an error returns it to the queue.
func (e *Engine) finish(ctx context.Context, j *job, err error) error {
	if taskstate.IsDamaged(err) {
		e.renewRecord(ctx, j)
	}
	if err != nil && j.startedAt.IsZero() && countedEarly(err) {
		if failed := e.countFailed(ctx, j); failed != nil {
			err = failed
		}
	}
	if err != nil {
		v := retryPolicy(err, j.counts, j.spec)
		if err = e.apply(ctx, j, v); err != nil {
			return err
		}
	}
	defer e.release(ctx, j)
	if err := e.cleanUpPatiently(ctx, j); err != nil {
		return &requeueError{after: bucketPause(err), why: clean(err.Error())}
	}
	failpoint.Hit("before-ack")
	return nil
}

// cleanUpPatiently repeats cleanUp for bucketPatience while the bucket fails. An ended task should
// not return to the queue, where it looks unfinished.
func (e *Engine) cleanUpPatiently(ctx context.Context, j *job) error {
	waiting, cancel := context.WithTimeout(ctx, bucketPatience)
	defer cancel()
	for {
		err := e.cleanUp(ctx, j)
		if !objects.Unavailable(err) || wait(waiting, time.Second) != nil || e.bucket.Wait(waiting) != nil {
			return err
		}
	}
}

// cleanUp removes the objects that only an unfinished task needs, the pending record last:
// while it exists, the task is run again and finds its result. If another run stored the
// result, cleanUp announces the end first.
func (e *Engine) cleanUp(ctx context.Context, j *job) error {
	if j.resultExists {
		if err := e.announceStored(ctx, j); err != nil {
			return err
		}
	}
	// Failed deletes are repeated here: the queue may no longer hold the task, so that no
	// later run would repeat them.
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err := e.persist(ctx, func(ctx context.Context) error { return e.deleteLeftovers(ctx, j) })
	if err != nil {
		return err
	}
	failpoint.Hit("before-pending-delete")
	if !j.task.Pending {
		return nil
	}
	shared, index, isShared := objects.SharedRecordOf(j.task.ID)
	if !isShared || j.failed || j.resultExists { // a cancelled task has a record of its own
		err := e.persist(ctx, func(ctx context.Context) error {
			return e.cfg.Store.Delete(ctx, objects.PendingKey(j.task.Tenant, j.task.ID))
		})
		if err != nil {
			return fmt.Errorf("delete the pending record: %w", err)
		}
	}
	if isShared {
		e.ends.add(shared, index)
	}
	return nil
}

// apply applies the decision of the retry policy; it returns nil when the task has ended.
func (e *Engine) apply(ctx context.Context, j *job, v retryDecision) error {
	if v.fail != nil {
		return e.fail(ctx, j, v.fail)
	}
	if v.uncounted {
		j.refundAttempt()
	}
	e.release(ctx, j)
	e.logRetry(j, v)
	j.observeRetry(v)
	e.storeReasons(ctx, j, v)
	if v.budget {
		e.waitForBudget(ctx, j.task)
	}
	if v.deferred {
		return e.deferTask(ctx, j.task, v.why)
	}
	return &requeueError{after: v.after, why: v.why}
}

// fail ends a task with its failure document. The task is kept beside it as a dead letter,
// so that a person can run it again; see storeResult.
func (e *Engine) fail(ctx context.Context, j *job, f *tasks.TaskError) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if errors.Is(storage.CheckKey(objects.ResultKey(j.task.Tenant, j.task.ID)), storage.ErrInvalidKey) {
		j.task.Tenant = objects.DefaultTenant // its own tenant is not valid in an object's name
	}
	err := e.readEarlierCounters(ctx, j)
	if err == nil {
		err = e.countStored(ctx, j)
	}
	if err == nil {
		f = e.explainDeadline(ctx, j, f)
		r := j.result(tasks.Failed)
		r.Error = &tasks.TaskError{Code: f.Code, Message: clean(f.Message)}
		err = e.storeResult(ctx, j, r)
	}
	if err != nil {
		j.counts.failure = f
		e.release(ctx, j)
		return &requeueError{after: bucketPause(err), why: "store the failure: " + clean(err.Error())}
	}
	return nil
}

// failureRecord returns the failure that could not be stored yet, as JSON for the task's record;
// empty when there is none.
func (j *job) failureRecord() string {
	if j.counts.failure == nil {
		return ""
	}
	document, err := json.Marshal(tasks.TaskError{Code: j.counts.failure.Code, Message: clean(j.counts.failure.Message)})
	if err != nil {
		return ""
	}
	return string(document)
}

// readEarlierCounters reads the counters of earlier runs when this run ends the task before claiming it,
// for example because the deadline passed.
func (e *Engine) readEarlierCounters(ctx context.Context, j *job) (err error) {
	if !j.held && j.startedAt.IsZero() {
		j.counts, err = e.readCounters(ctx, j.task.ID)
	}
	return err
}

// newerPause is how long this worker leaves a task of a newer version to other workers.
const newerPause = 30 * time.Second

// failUndecodable fails a task that cannot be decoded, since every retry would fail the same way. A
// task of a newer version is retried later until its deadline: producers may be upgraded
// before workers.
func (e *Engine) failUndecodable(ctx context.Context, d queue.Delivery, t tasks.Task, err error) error {
	ctx = context.WithoutCancel(ctx)
	j := &job{engine: e, raw: d.Payload, task: tasks.Task{ID: d.ID, Tenant: objects.DefaultTenant, Kind: tasks.Kind(d.Kind), CreatedAt: time.Now().UTC()}}
	failure := &tasks.TaskError{Code: tasks.CodePayloadInvalid, Message: clean(err.Error())}
	if errors.Is(err, tasks.ErrNewerTask) && t.ID == d.ID {
		if left := time.Until(t.Deadline); left > 0 {
			if _, said := e.loggedNewer.LoadOrStore(err.Error(), true); !said {
				e.cfg.Log.Info("tasks wait for a worker of a newer version", "task", d.ID, "kind", d.Kind, "error", clean(err.Error()))
			}
			return &requeueError{after: min(newerPause, left+time.Second), why: clean(err.Error())}
		}
		j.task, failure = t, overdueNewer(t, err)
	}
	if err := e.fail(ctx, j, failure); err != nil {
		return err
	}
	if err := e.cleanUp(ctx, j); err != nil {
		return &requeueError{after: 5 * time.Second, why: clean(err.Error())}
	}
	return nil
}

// overdueNewer returns the failure of a task that no worker could decode before its
// deadline.
func overdueNewer(t tasks.Task, err error) *tasks.TaskError {
	f := deadlineExceeded(t.Deadline)
	return &tasks.TaskError{Code: f.Code, Message: f.Message + "; last: " + clean(err.Error())}
}

func (e *Engine) logEnd(j *job, r tasks.Result) {
	attrs := j.attrs(string(r.Status))
	if r.Error != nil {
		e.cfg.Log.Warn("task failed", append(attrs, "code", r.Error.Code, "message", r.Error.Message)...)
		return
	}
	e.cfg.Log.Info("task done", attrs...)
}

func (e *Engine) logRetry(j *job, v retryDecision) {
	level := slog.LevelInfo
	if v.uncounted {
		level = slog.LevelDebug
	}
	e.cfg.Log.Log(context.Background(), level, "task comes again", append(j.attrs("again"), "after", v.after, "why", v.why)...)
}

func (j *job) attrs(outcome string) []any {
	var took time.Duration
	if !j.startedAt.IsZero() {
		took = time.Since(j.startedAt).Round(time.Millisecond)
	}
	return []any{
		"task", j.task.ID, "kind", j.task.Kind, "attempt", j.counts.attempts,
		"model", j.task.Model, "took", took, "outcome", outcome,
	}
}
