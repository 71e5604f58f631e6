package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// call sends a request of one task: it waits at the gate, counts, and calls.
func (j *job) call(ctx context.Context, send func(context.Context) (workersai.Meta, error)) error {
	place, err := j.pass(ctx)
	if err != nil {
		return err
	}
	meta, err := j.h.call(ctx, place, []*job{j}, send)
	j.neurons += meta.Neurons
	return err
}

// call sends one request for all that ride in it, on a context that only the kind's
// time limit ends, and tells the gate what it met.
func (h *Handlers) call(ctx context.Context, place *limit.Place, riders []*job, send func(context.Context) (workersai.Meta, error)) (workersai.Meta, error) {
	err := h.stopped(riders[0].task.Model)
	if err == nil {
		err = h.storable(ctx)
	}
	if err == nil {
		err = h.count(ctx, riders)
	}
	if err != nil {
		_, _ = place.Done(ctx, limit.Ended, 0)
		return workersai.Meta{}, err
	}
	failpoint.Hit("before-call")
	sending, cancel := context.WithTimeout(ctx, riders[0].spec.Timeout)
	defer cancel()
	if !h.cfg.on(guardDetached) {
		defer context.AfterFunc(riders[0].draining, cancel)()
	}
	meta, err := h.send(sending, send)
	failpoint.Hit("after-call")
	for _, j := range riders {
		j.learn(err)
	}
	h.tellGate(ctx, place, riders[0].task.Model, err)
	if err != nil {
		return meta, fmt.Errorf("ask %s: %w", riders[0].task.Model, err)
	}
	return meta, nil
}

// stopped is the reason not to send a call when the worker has been told to stop.
func (h *Handlers) stopped(model string) error {
	if h.stopping.Err() == nil || !h.cfg.on(guardDrain) {
		return nil
	}
	return &limit.PauseError{Model: model, Until: time.Now(), Reason: "worker is stopping"}
}

// send turns a panic into an error: the call may run on a goroutine of its own, where
// a panic would end the worker.
func (h *Handlers) send(ctx context.Context, send func(context.Context) (workersai.Meta, error)) (meta workersai.Meta, err error) {
	defer h.rescue(&err)
	return send(ctx)
}

// learn notes whether a call's outcome is known.
func (j *job) learn(err error) {
	api, ok := errors.AsType[*workersai.Error](err)
	switch {
	case err == nil:
		j.answered++
	case !ok || !api.Lost():
		j.refused++ // or not sent at all
	}
}

// outcomes are the answers that a gate wants to know of.
var outcomes = map[workersai.Class]limit.Outcome{
	workersai.Throttled: limit.Throttled, workersai.Busy: limit.Busy,
	workersai.Quota: limit.Quota, workersai.Auth: limit.Refused,
}

// tellGate gives the place back. What a person should know is said by the one worker
// whose answer closed the gate.
func (h *Handlers) tellGate(ctx context.Context, place *limit.Place, model string, err error) {
	outcome, advice := limit.Passed, time.Duration(0)
	if err != nil {
		outcome = limit.Ended
		if api, ok := errors.AsType[*workersai.Error](err); ok && outcomes[api.Class()] != "" {
			outcome, advice = outcomes[api.Class()], api.RetryAfter
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	closing, told := place.Done(ctx, outcome, advice)
	switch {
	case told != nil:
		h.cfg.Log.Warn("gate not told", "model", model, "outcome", outcome, "error", told)
	case !closing.New:
	case outcome == limit.Quota:
		h.cfg.Log.Error("the account's free daily allocation is spent: all models wait", "for", closing.For.Round(time.Second), "answer", clean(err.Error()))
	case outcome == limit.Refused && closing.For >= time.Minute:
		h.cfg.Log.Error("the API refuses the account: mend CLOUDFLARE_ACCOUNT_ID, CLOUDFLARE_API_TOKEN or the model's licence or plan, then: neuronmill gate open "+model, "answer", clean(err.Error()))
	default:
		h.cfg.Log.Info("gate closed", "model", model, "for", closing.For.Round(time.Millisecond), "why", closing.Why)
	}
}

// turn bounds the wait for a call: the deadline, a person's cancel and the stop of the
// worker end it. What was paid for so far is stored.
func (j *job) turn(ctx context.Context) (context.Context, context.CancelFunc) {
	cancel := context.CancelFunc(func() {})
	if j.h.cfg.on(guardDeadline) {
		ctx, cancel = context.WithDeadlineCause(ctx, j.task.Deadline, deadlineExceeded(j.task.Deadline))
	}
	ctx, end := context.WithCancelCause(ctx)
	drained := context.AfterFunc(j.draining, func() {
		end(&limit.PauseError{Model: j.task.Model, Until: time.Now(), Reason: "worker is stopping"})
	})
	cancelled := context.AfterFunc(j.cancelled, func() { end(errCancelled) })
	if j.cancelled.Err() != nil {
		end(errCancelled) // at once: what runs by itself may come after the next call
	}
	return ctx, func() { drained(); cancelled(); end(nil); cancel() }
}

var errCancelled = &tasks.Failure{Code: "cancelled", Message: "cancelled before it was done"}

// pass waits at the gate. The first call of a run may be sent away, to be parked, when
// others want its slot; a later one waits in place, since what was paid for so far is
// in memory only.
func (j *job) pass(ctx context.Context) (*limit.Place, error) {
	ctx, cancel := j.turn(ctx)
	defer cancel()
	defer j.h.idles(ctx, j)()
	ask := limit.Ask{Model: j.task.Model, Kind: string(j.task.Kind), Lane: string(j.task.Lane)}
	if !j.startedAt.IsZero() {
		ask.Patience = time.Until(j.task.Deadline)
	}
	for {
		shared := j.startedAt.IsZero() && j.h.shared(ctx, j.task.Kind, j.task.Lane)
		if ask.Seats = 0; shared {
			ask.Seats = j.h.seats(j.task.Kind)
		}
		place, err := j.h.cfg.Gate.Pass(ctx, ask)
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		pause, ok := errors.AsType[*limit.PauseError](err)
		if !ok {
			return place, err
		}
		if pause.Reason != limit.Paced && pause.Until.After(j.task.Deadline) {
			return nil, deadlineExceeded(j.task.Deadline)
		}
		if shared && pause.Model != limit.Account && j.h.cfg.on(guardPark) {
			return nil, err
		}
		if err := wait(ctx, again(pause)); err != nil {
			return nil, err
		}
	}
}

// again is when who was sent away asks anew. A gate may open before its time, by a person
// or because others left.
func again(p *limit.PauseError) time.Duration {
	return min(max(time.Until(p.Until), 10*time.Millisecond), look)
}

// wait gives the cause when ctx ends before d has passed.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func deadlineExceeded(at time.Time) *tasks.Failure {
	return &tasks.Failure{
		Code:    "deadline_exceeded",
		Message: "its deadline " + at.UTC().Format(time.RFC3339) + " passed before its turn",
	}
}
