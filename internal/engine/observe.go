package engine

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

// Hooks tell others what happens to tasks. The engine calls them on the goroutines of its
// tasks, so none may wait, fail or use Redis by itself. All may be nil.
type Hooks struct {
	// Observer gets the events of all tasks but EventAccepted.
	Observer tasks.Observer
	// Live gets the partial output of running tasks.
	Live Live
	// Bucket is told whether the bucket takes results, when that changes.
	Bucket func(takes bool)
	// Announce adds commands to the round trip that announces a task's end. The end is
	// announced again if Redis fails, or if the worker dies before the queue forgets the
	// task. The task may have an unknown kind or tenant.
	Announce func(ctx context.Context, pipe redis.Pipeliner, t tasks.Task, r tasks.Result)
	// Settle adds commands to the same round trip that count the cost of the ended task, and
	// returns what checks their replies. An end that was announced before is not settled
	// again, but one whose announcement failed may be.
	Settle func(ctx context.Context, pipe redis.Pipeliner, tenant string, r tasks.Result) (done func() error)
}

// Live gets the partial output of running tasks, for their followers. Its methods must not
// wait.
type Live interface {
	Text(task, part string)
	Progress(task string, part, parts int)
	// Left says that the task's run in this process is over.
	Left(task string)
}

// Text passes on a further part of the text that the task produces. Only the Output counts
// in the end.
func (c *Call) Text(part string) {
	if live := c.j.engine.cfg.Hooks.Live; live != nil {
		live.Text(c.j.task.ID, part)
	}
}

// Progress reports how many parts of a task's work are done.
func (c *Call) Progress(part, parts int) {
	if live := c.j.engine.cfg.Hooks.Live; live != nil {
		live.Progress(c.j.task.ID, part, parts)
	}
}

// observe reports an event of the task.
func (j *job) observe(of tasks.EventType, complete func(*tasks.Event)) {
	if j.engine.cfg.Hooks.Observer == nil {
		return
	}
	e := j.task.Event(of)
	e.Attempt = j.counts.attempts
	complete(&e)
	j.engine.cfg.Hooks.Observer.Observe(e)
}

// waitsAtGate records the gate's reason for a pause, and reports it when it is another than
// before. It is called for a task that makes no call meanwhile.
func (j *job) waitsAtGate(err error) {
	if !j.reasons.waitsAtGate(err) {
		return
	}
	pause, _ := errors.AsType[*gate.RetryLaterError](err)
	j.observe(tasks.EventWaiting, func(e *tasks.Event) {
		e.Reason, _ = j.reasons.get()
		e.Until = pause.Until.UTC()
	})
}

// observeRetry reports that the task is retried later. The time at which a deferred task is
// re-admitted is unknown.
func (j *job) observeRetry(v retryDecision) {
	j.observe(tasks.EventWaiting, func(e *tasks.Event) {
		if e.Reason = v.why; v.deferred {
			if waits, _ := j.reasons.get(); waits != "" {
				e.Reason = waits
			}
			return
		}
		e.Until = time.Now().Add(v.after).UTC()
	})
}

// callID returns a name for a call, by which an observer joins the events of its riders.
func (e *Engine) callID() string {
	if e.cfg.Hooks.Observer == nil {
		return ""
	}
	return strconv.FormatUint(rand.Uint64(), 36)
}

// observeCall reports the outcome of a call to one of its riders. meta is that of the whole
// call.
func (j *job) observeCall(id string, err error, meta workersai.Meta, took time.Duration, rider, riders int) {
	j.observe(tasks.EventCalled, func(e *tasks.Event) {
		e.Call, e.Outcome, e.Took, e.Neurons, e.Rider, e.Riders = id, "lost", took, meta.Neurons, rider, riders
		if rider == 0 {
			e.InputTokens, e.OutputTokens = meta.InputTokens, meta.OutputTokens
		}
		if j.share > 0 {
			e.Neurons *= j.share
		}
		api, ok := errors.AsType[*workersai.Error](err)
		switch {
		case err == nil:
			e.Outcome = "ok"
		case ok:
			e.Outcome = api.Class().String()
			if code := cmp.Or(api.Code, api.Status); code != 0 {
				e.Code = strconv.Itoa(code)
			}
		}
	})
}

// comesToGate notes that the run asks for a permit.
func (j *job) comesToGate() { j.cameAt = time.Now() }

// observeStart reports the first call of a run.
func (j *job) observeStart() {
	j.observe(tasks.EventStarted, func(e *tasks.Event) {
		due := j.task.CreatedAt
		if j.task.StartAt.After(due) {
			due = j.task.StartAt
		}
		came := j.startedAt
		if !j.cameAt.IsZero() {
			came = j.cameAt
		}
		e.Queued, e.Waited = max(came.Sub(due), 0), j.startedAt.Sub(came)
	})
}

// observeEnd reports the task's result. repeated means that another run committed it.
func (j *job) observeEnd(r tasks.Result, repeated bool) {
	j.observe(tasks.EventFinished, func(e *tasks.Event) {
		e.Time, e.Outcome, e.Attempt, e.Neurons, e.Repeated = r.FinishedAt, string(r.Status), r.Attempts, r.Usage.Neurons, repeated
		e.Took, e.Stored = r.FinishedAt.Sub(r.CreatedAt), j.stored
		if r.Error != nil {
			e.Code = r.Error.Code
		}
	})
}
