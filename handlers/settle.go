package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/tasks"
)

// settle ends a run: nil acknowledges the task, an error brings it again.
func (h *Handlers) settle(ctx context.Context, j *job, err error) error {
	if err != nil {
		v := judge(err, j.counts, j.spec)
		if !h.cfg.on(guardClean) {
			v.why = err.Error()
		}
		if err = h.carryOut(ctx, j, v); err != nil {
			return err
		}
	}
	defer h.release(ctx, j)
	if err := h.tidy(ctx, j); err != nil {
		return &handback{after: 5 * time.Second, why: clean(err.Error())}
	}
	failpoint.Hit("before-ack")
	return nil
}

// tidy removes what only an unfinished task needs, its record last: while that stands
// the task comes again, and finds its result.
func (h *Handlers) tidy(ctx context.Context, j *job) error {
	if err := h.forgetAnswers(ctx, j); err != nil {
		return err
	}
	failpoint.Hit("before-pending-delete")
	if !j.task.Pending {
		return nil
	}
	if err := h.cfg.Store.Delete(ctx, tasks.PendingKey(j.task.Tenant, j.task.ID)); err != nil {
		return fmt.Errorf("delete the pending record: %w", err)
	}
	return nil
}

// carryOut does what the verdict says; nil when the task has ended.
func (h *Handlers) carryOut(ctx context.Context, j *job, v verdict) error {
	if v.fail != nil {
		return h.fail(ctx, j, v.fail)
	}
	if v.uncounted {
		j.giveBack()
	}
	h.release(ctx, j)
	h.logAgain(j, v)
	if v.park {
		return h.park(ctx, j.task, v.why)
	}
	return &handback{after: v.after, why: v.why}
}

// fail ends a task with its failure document. The task itself is left beside it, so
// that a person can have it run again.
func (h *Handlers) fail(ctx context.Context, j *job, f *tasks.Failure) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err := h.recall(ctx, j)
	if err == nil {
		r := j.result(tasks.Failed)
		r.Error = &tasks.Failure{Code: f.Code, Message: clean(f.Message)}
		if err = h.leaveTask(ctx, j, r); err == nil {
			err = h.finish(ctx, j, r)
		}
	}
	if err != nil {
		h.release(ctx, j)
		return &handback{after: backoff(3), why: "store the failure: " + clean(err.Error())}
	}
	return nil
}

// recall reads what earlier runs of a task came to, where this one ends it before it was
// taken, as a deadline does that passes meanwhile.
func (h *Handlers) recall(ctx context.Context, j *job) (err error) {
	if !j.held && j.startedAt.IsZero() {
		j.counts, err = h.readCounters(ctx, j.task.ID)
	}
	return err
}

// leaveTask puts the failed task where it can be found and run again.
func (h *Handlers) leaveTask(ctx context.Context, j *job, r tasks.Result) error {
	whole := j.raw
	if whole == nil {
		task := j.task
		task.Redis = ""
		var err error
		if whole, err = json.Marshal(task); err != nil {
			return err
		}
	}
	if err := h.cfg.Store.Put(ctx, tasks.FailedTaskKey(j.task.Tenant, j.task.ID), bytes.NewReader(whole), "application/json"); err != nil {
		return err
	}
	if r.Error.Code == errCancelled.Code {
		return nil // as wanted: nobody looks for it among the failures
	}
	entry, err := json.Marshal(tasks.DeadOf(r))
	if err != nil {
		return err
	}
	return h.cfg.Store.Put(ctx, tasks.DeadKey(j.task.Tenant, j.task.ID), bytes.NewReader(entry), "application/json")
}

// refuse ends what cannot be decoded: it would fail the same way every time.
func (h *Handlers) refuse(ctx context.Context, id string, queued *asynq.Task, err error) error {
	j := &job{h: h, raw: queued.Payload(), task: tasks.Task{ID: id, Tenant: "default", Kind: tasks.Kind(queued.Type()), CreatedAt: time.Now().UTC()}}
	failure := &tasks.Failure{Code: "payload_invalid", Message: clean(err.Error())}
	return h.fail(context.WithoutCancel(ctx), j, failure)
}

func (h *Handlers) logEnd(j *job, r tasks.Result) {
	attrs := j.attrs(string(r.Status))
	if r.Error != nil {
		h.cfg.Log.Warn("task failed", append(attrs, "code", r.Error.Code, "message", r.Error.Message)...)
		return
	}
	h.cfg.Log.Info("task done", attrs...)
}

func (h *Handlers) logAgain(j *job, v verdict) {
	level := slog.LevelInfo
	if v.uncounted {
		level = slog.LevelDebug
	}
	h.cfg.Log.Log(context.Background(), level, "task comes again", append(j.attrs("again"), "after", v.after, "why", v.why)...)
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
