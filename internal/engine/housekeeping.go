package engine

import (
	"context"

	"github.com/neuronmill/neuronmill/internal/maintenance"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
)

// housekeeping returns this worker's maintenance service; one worker of the fleet leads.
func (h *Engine) housekeeping() *maintenance.Service {
	return &maintenance.Service{
		Redis: h.cfg.Redis, Owner: h.process.ID(), Log: h.cfg.Log,
		Jobs: append(maintenance.Jobs(maintenance.Config{
			Redis: h.cfg.Redis, Store: h.cfg.Store, Gate: h.cfg.Gate, Presence: h.process, Log: h.cfg.Log,
			End: h.endWaiting, Cancelled: errCancelled,
			Expired: func(t tasks.Task) *tasks.TaskError { return deadlineExceeded(t.Deadline) },
			Overdue: overdueNewer,
		}), h.cfg.Jobs...),
	}
}

// endWaiting ends a task that no worker runs; a stored result stands.
func (h *Engine) endWaiting(ctx context.Context, t tasks.Task, raw []byte, f *tasks.TaskError) error {
	j := &job{engine: h, task: t, raw: raw}
	if err := h.findResult(ctx, j); err != nil {
		return err
	}
	if !j.resultExists {
		if err := h.fail(ctx, j, f); err != nil {
			return err
		}
	}
	return h.cleanUp(ctx, j)
}

// stopCancelled stops the running tasks of this process whose cancellation was requested.
func (h *Engine) stopCancelled(ctx context.Context) {
	if h.runningCount.Load() == 0 || h.cfg.Redis.ZCard(ctx, taskstate.CancelledKey).Val() == 0 {
		return
	}
	var jobs []*job
	var ids []string
	h.running.Range(func(id, j any) bool {
		jobs, ids = append(jobs, j.(*job)), append(ids, id.(string))
		return true
	})
	if len(ids) == 0 {
		return
	}
	for i, since := range h.cfg.Redis.ZMScore(ctx, taskstate.CancelledKey, ids...).Val() {
		if since > 0 {
			jobs[i].cancel()
		}
	}
}
