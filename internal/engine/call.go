package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// call sends a request of one task: it acquires a permit, counts the call and sends it.
func (j *job) call(ctx context.Context, send func(context.Context) (workersai.Meta, error)) error {
	if _, err := j.withinBudget(ctx); err != nil {
		return err
	}
	if err := j.engine.bucketReady(ctx); err != nil {
		return err
	}
	permit, err := j.acquirePermit(ctx)
	if err != nil {
		return err
	}
	_, err = j.engine.call(ctx, permit, []*job{j}, send)
	return err
}

// call sends one request for all members, the tasks that share it, and reports the outcome
// to the gate and to the caps. Only the kind's time limit ends the context of the request.
func (e *Engine) call(ctx context.Context, permit *gate.Permit, members []*job, send func(context.Context) (workersai.Meta, error)) (workersai.Meta, error) {
	err := e.stopped(members[0].task.Model)
	if err == nil {
		err = e.bucketReady(ctx)
	}
	var held *budget.Reservation
	if err == nil {
		held, err = e.reserve(ctx, members)
	}
	if err == nil {
		if err = e.count(ctx, members); err != nil {
			e.settle(ctx, held, 0)
		}
	}
	if err != nil {
		permit.GiveBack(ctx)
		return workersai.Meta{}, err
	}
	failpoint.Hit("before-call")
	sending, cancel := context.WithTimeout(ctx, members[0].spec.Timeout)
	defer cancel()
	begun := time.Now()
	meta, err := e.send(sending, send)
	failpoint.Hit("after-call")
	e.settle(ctx, held, priceOf(err, meta))
	id := e.callID()
	for i, j := range members {
		j.observeCall(id, err, meta, time.Since(begun), i, len(members))
		j.recordOutcome(err, meta.Neurons*cmp.Or(j.share, 1), meta.Priced)
		if _, ok := errors.AsType[*workersai.Error](err); ok {
			j.reasons.answered(err)
		}
	}
	e.reportOutcome(ctx, permit, members[0].task.Model, err)
	if err != nil {
		return meta, fmt.Errorf("ask %s: %w", members[0].task.Model, err)
	}
	return meta, nil
}

// stopped returns an error, so that no call is sent, once the worker was told to stop.
func (e *Engine) stopped(model string) error {
	if e.stopping.Err() == nil {
		return nil
	}
	return &gate.RetryLaterError{Model: model, Until: time.Now(), Reason: stopping}
}

// stopping is the reason in the RetryLaterError of a worker that was told to stop.
const stopping = "worker is stopping"

// leaseLost is the reason in the RetryLaterError of a run whose lease the queue took away:
// this worker was away for too long.
const leaseLost = "its lease is lost"

// send makes the call and turns a panic into an error. The call may run on its own
// goroutine, where a panic would end the worker.
func (e *Engine) send(ctx context.Context, send func(context.Context) (workersai.Meta, error)) (meta workersai.Meta, err error) {
	defer e.recoverPanic(&err)
	e.calls.Add(1)
	defer e.calls.Add(-1)
	return send(ctx)
}

// outcomes maps the classes of API errors that the gate reacts to.
var outcomes = map[workersai.Class]gate.Outcome{
	workersai.Throttled: gate.Throttled, workersai.Busy: gate.Busy,
	workersai.Quota: gate.Quota, workersai.Auth: gate.Refused,
}

// reportOutcome releases the permit with the outcome of the call. Only the worker whose answer
// closed the gate logs it.
func (e *Engine) reportOutcome(ctx context.Context, permit *gate.Permit, model string, err error) {
	outcome, advice := gate.Passed, time.Duration(0)
	if err != nil {
		outcome = gate.Ended
		if api, ok := errors.AsType[*workersai.Error](err); ok && outcomes[api.Class()] != "" {
			outcome, advice = outcomes[api.Class()], api.RetryAfter
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	closing, told := permit.Release(ctx, outcome, advice)
	switch {
	case told != nil:
		e.cfg.Log.Warn("gate not told", "model", model, "outcome", outcome, "error", told)
	case !closing.New:
	case outcome == gate.Quota:
		e.cfg.Log.Error("the account's free daily allocation is spent: all models wait", "for", closing.For.Round(time.Second), "answer", clean(err.Error()))
	case outcome == gate.Refused && closing.For >= time.Minute:
		e.cfg.Log.Error("the API refuses the account: fix CLOUDFLARE_ACCOUNT_ID, CLOUDFLARE_API_TOKEN or the model's licence or plan. One call tries again after 1, 2, 5, then every 15 minutes, or at once: neuronmill gate open "+model, "answer", clean(err.Error()))
	default:
		e.cfg.Log.Info("gate closed", "model", model, "for", closing.For.Round(time.Millisecond), "why", closing.Why)
	}
}

// waitContext returns a context for the wait before a call. The task's deadline, its cancellation
// and the stop of the worker end it. Earlier paid answers of the task are stored by then.
func (j *job) waitContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadlineCause(ctx, j.task.Deadline, deadlineExceeded(j.task.Deadline))
	ctx, end := context.WithCancelCause(ctx)
	drained := context.AfterFunc(j.draining, func() {
		reason := stopping
		if j.engine.stopping.Err() == nil {
			reason = leaseLost
		}
		end(&gate.RetryLaterError{Model: j.task.Model, Until: time.Now(), Reason: reason})
	})
	cancelled := context.AfterFunc(j.cancelled, func() { end(errCancelled) })
	if j.cancelled.Err() != nil {
		end(errCancelled) // at once: AfterFunc runs in its own goroutine, perhaps after the next call
	}
	return ctx, func() { drained(); cancelled(); end(nil); cancel() }
}

var errCancelled = &tasks.TaskError{Code: tasks.CodeCancelled, Message: "cancelled before it was done"}

// acquirePermit acquires a permit from the gate. A task leaves its worker slot, to be deferred, when
// tasks of other models need the slot, and when the gate stays closed beyond the task's
// deadline. After the first call of a run the task waits in permit, since its paid answers
// so far are in memory only.
func (j *job) acquirePermit(ctx context.Context) (*gate.Permit, error) {
	ctx, cancel := j.waitContext(ctx)
	defer cancel()
	j.comesToGate()
	defer j.engine.markIdleLater(ctx, j)()
	defer j.engine.longWaits.watch(j.engine, waitAtGate(j.task.Model), j)()
	j.leaveIsolation()
	ask := gate.Request{Model: j.task.Model, Kind: string(j.task.Kind), Lane: string(j.task.Lane)}
	first := j.startedAt.IsZero()
	if !first {
		ask.Patience = max(time.Until(j.task.Deadline), time.Millisecond)
	}
	for {
		shared := first && j.engine.sharesQueue(ctx, j.task.Kind, j.task.Lane)
		if ask.MaxWaiting = 0; shared {
			ask.MaxWaiting = j.engine.waitingSlots(j.task.Kind)
		}
		permit, leave, err := j.engine.permit(ctx, ask, j.crashes())
		if err == nil {
			j.leaveFunc = leave[0]
			j.engine.longWaits.over(waitAtGate(j.task.Model))
			return permit, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		pause, ok := errors.AsType[*gate.RetryLaterError](err)
		if !ok {
			return nil, err
		}
		j.waitsAtGate(err)
		if first && (outlasts(pause, j.task.Deadline) || shared && pause.Model != gate.Account) {
			return nil, err
		}
		if err := wait(ctx, retryDelayAtGate(pause)); err != nil {
			return nil, err
		}
	}
}

// waitAtGate names the wait for a model's gate.
func waitAtGate(model string) string { return "the gate of " + model }

// outlasts reports whether a gate stays closed until after a deadline.
func outlasts(p *gate.RetryLaterError, deadline time.Time) bool {
	return p.Reason != gate.Paced && p.Until.After(deadline)
}

// paused reports whether an error is the gate's RetryLaterError: retry later.
func paused(err error) bool {
	_, ok := errors.AsType[*gate.RetryLaterError](err)
	return ok
}

// retryDelayAtGate is how long to wait before asking the gate again. A gate may open early:
// a person opens it, or other callers leave.
func retryDelayAtGate(p *gate.RetryLaterError) time.Duration {
	return min(max(time.Until(p.Until), 10*time.Millisecond), sharingCachedFor)
}

// wait waits for d; it returns the cause when ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func deadlineExceeded(at time.Time) *tasks.TaskError {
	return &tasks.TaskError{
		Code:    tasks.CodeDeadlineExceeded,
		Message: "its deadline " + at.UTC().Format(time.RFC3339) + " passed before its turn",
	}
}
