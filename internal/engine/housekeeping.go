package engine

import (
	"context"

	"github.com/neuronmill/neuronmill/internal/maintenance"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
)

// housekeeping returns this worker's maintenance service; one worker of the fleet leads.
func (e *Engine) housekeeping() *maintenance.Service {
	return &maintenance.Service{
		Redis: e.cfg.Redis, Owner: e.process.ID(), Log: e.cfg.Log,
		Jobs: append(maintenance.Jobs(maintenance.Config{
			Redis: e.cfg.Redis, Store: e.cfg.Store, Gate: e.cfg.Gate, Presence: e.process, Log: e.cfg.Log,
			End: e.endWaiting, Cancelled: errCancelled,
			Expired: func(t tasks.Task) *tasks.TaskError { return deadlineExceeded(t.Deadline) },
			Overdue: overdueNewer,
		}), e.cfg.Jobs...),
	}
}

// endWaiting ends a task that no worker runs; a stored result stands.
func (e *Engine) endWaiting(ctx context.Context, t tasks.Task, raw []byte, f *tasks.TaskError) error {
	j := &job{engine: e, task: t, raw: raw}
	if err := e.findResult(ctx, j); err != nil {
		return err
	}
	if !j.resultExists {
		if err := e.fail(ctx, j, f); err != nil {
			return err
		}
	}
	return e.cleanUp(ctx, j)
}

// onBeat runs with each heartbeat.
func (e *Engine) onBeat(ctx context.Context) {
	e.releaseLate(ctx)
	e.stopCancelled(ctx)
	e.refreshCaps(ctx)
}

// stopCancelled stops the running tasks of this process whose cancellation was requested.
func (e *Engine) stopCancelled(ctx context.Context) {
	if e.runningCount.Load() == 0 || e.cfg.Redis.ZCard(ctx, taskstate.CancelledKey).Val() == 0 {
		return
	}
	var jobs []*job
	var ids []string
	e.running.Range(func(id, j any) bool {
		jobs, ids = append(jobs, j.(*job)), append(ids, id.(string))
		return true
	})
	if len(ids) == 0 {
		return
	}
	for i, since := range e.cfg.Redis.ZMScore(ctx, taskstate.CancelledKey, ids...).Val() {
		if since > 0 {
			jobs[i].cancel()
		}
	}
}
