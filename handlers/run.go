package handlers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// job is one run of a task.
type job struct {
	h         *Handlers
	task      tasks.Task
	spec      tasks.Spec
	counts    counters
	draining  context.Context // ends when the worker stops or the queue takes the task back
	startedAt time.Time       // of the first call in this run; zero before it
	neurons   float64
}

// output is what a kind's work came to.
type output struct {
	result any // the kind's Output of package tasks
	files  []file
}

func (j *job) key(name string) string { return tasks.ArtefactKey(j.task.Tenant, j.task.ID, name) }

// ProcessTask is the life of a task from the queue to its result. It returns nil when
// the queue may forget the task, else an error that says when to bring it again.
func (h *Handlers) ProcessTask(ctx context.Context, queued *asynq.Task) error {
	failpoint.Hit("taken")
	id, _ := asynq.GetTaskID(ctx)
	task, err := tasks.Decode(queued.Payload())
	if err != nil {
		return h.refuse(ctx, id, queued.Type(), err)
	}
	if !h.begin(task.ID) {
		// The queue gave the task out again while the first run still holds a paid
		// call: that run's end decides, not a second call.
		return &handback{after: 5 * time.Second, why: "already running here"}
	}
	h.runs.Add(1)
	defer h.runs.Done()
	defer h.end(task.ID)
	return h.live(ctx, task)
}

// live runs a task and settles how it ended. It may pay and must then store, so only
// our own time limits end it; a lost lease or a stopping worker does not.
func (h *Handlers) live(ctx context.Context, task tasks.Task) error {
	draining, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(h.stopping, stop)()
	j := &job{h: h, task: task, draining: draining}
	ctx = context.WithoutCancel(ctx)
	return h.settle(ctx, j, h.guarded(ctx, j))
}

// guarded turns a panic into the task's failure: it would come again the same way.
func (h *Handlers) guarded(ctx context.Context, j *job) (err error) {
	defer func() {
		if r := recover(); r != nil {
			h.cfg.Log.Error("a handler panicked", "task", j.task.ID, "kind", j.task.Kind, "panic", r, "stack", string(debug.Stack()))
			err = &tasks.Failure{Code: "internal_error", Message: "the worker failed on this task; its log says where"}
		}
	}()
	return h.run(ctx, j)
}

// run does the task unless it has ended already.
func (h *Handlers) run(ctx context.Context, j *job) error {
	_, err := h.cfg.Store.Head(ctx, tasks.ResultKey(j.task.Tenant, j.task.ID))
	if err == nil && h.cfg.on(guardResultFirst) {
		return nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("look for the result: %w", err)
	}
	if j.counts, err = h.counters(ctx, j.task.ID); err != nil {
		return err
	}
	if j.counts.cancelled {
		return &tasks.Failure{Code: "cancelled", Message: "cancelled before it ran"}
	}
	if !time.Now().Before(j.task.Deadline) {
		return deadlineExceeded(j.task.Deadline)
	}
	j.spec, _ = tasks.SpecOf(j.task.Kind)
	payload, err := j.task.Input(ctx, h.cfg.Store)
	if err != nil {
		return err
	}
	out, err := h.work(ctx, j, payload)
	if err != nil {
		return err
	}
	return h.keep(ctx, j, out)
}
