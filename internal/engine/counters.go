package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/replid"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/redis/go-redis/v9"
)

// counters hold a task's attempts, calls and costs over all its runs. They are kept in
// Redis, because the queue's own count includes refunded attempts. Only the task's owner
// writes them, as whole values rather than increments: a repeated write, or a lost reply,
// does no harm.
type counters struct {
	attempts  int  // runs that sent a call, or failed before it with an error that counts
	calls     int  // calls sent
	settled   int  // calls that the API refused: nothing was billed
	unpaid    int  // refunded attempts: the API was closed, not the task at fault
	crashes   int  // workers that died while they ran it
	cancelled bool // its cancellation was requested
	ended     bool // it has its result
	unusable  int  // paid answers that could not be used
	costs     costs
	failure   *tasks.TaskError // failure that an earlier run decided on and could not store
}

// spent returns how many attempts count against the task.
func (c counters) spent() int { return c.attempts - c.unpaid }

// countersOf decodes the counters of a record. A damaged failure is left out.
func countersOf(r taskstate.Counters) counters {
	c := counters{
		attempts: r.Attempts, calls: r.Calls, settled: r.Settled, unpaid: r.Unpaid, crashes: r.Crashes,
		cancelled: r.Cancelled, ended: r.Ended, unusable: r.Unusable, costs: parseCosts(r.Neurons),
	}
	if json.Unmarshal([]byte(r.Failure), &c.failure) != nil {
		c.failure = nil
	}
	return c
}

// readCounters reads the counters of a task that this process does not own.
func (e *Engine) readCounters(ctx context.Context, id string) (counters, error) {
	read, err := taskstate.Peek(ctx, e.cfg.Redis, id)
	if err != nil {
		return counters{}, &redisError{fmt.Errorf("read the counters: %w", err)}
	}
	return countersOf(read), nil
}

// errNotNew reports that a task assumed to be new has an earlier run.
var errNotNew = errors.New("the task is not new")

// countNew claims a task without an owner and counts its first call in one step.
func (e *Engine) countNew(ctx context.Context, j *job) error {
	j.mayCall.Store(true)
	var isNew, known bool
	run := rand.Text()
	err := e.whileRefused(ctx, []*job{j}, func() (err error) {
		isNew, known, err = e.countFirst(ctx, j, run)
		return err
	})
	switch {
	case err != nil:
		j.mayCall.Store(false)
		j.held = true // perhaps claimed: only the reply may be lost
		return &redisError{fmt.Errorf("count the first call: %w", err)}
	case err == nil && !isNew:
		j.mayCall.Store(false)
		j.notNew = true
		return errNotNew
	case err == nil && !known:
		// Redis has lost its memory since this task was taken, and with it the claim of a
		// worker that may be calling for the task right now.
		j.mayCall.Store(false)
		j.held = true
		e.uncount(ctx, []*job{j})
		return errForgot()
	case ctx.Err() != nil:
		j.mayCall.Store(false)
		j.held = true
		e.uncount(ctx, []*job{j})
		return context.Cause(ctx)
	}
	j.held = true
	j.countStarted()
	return nil
}

// countFirst claims the task with its first call, and reports whether Redis still has the
// memory of the Redis that accepted the task.
func (e *Engine) countFirst(ctx context.Context, j *job, run string) (isNew, known bool, err error) {
	mark, read := e.readMark(ctx)
	isNew, err = e.owner().CountFirst(ctx, j.record(), run, read)
	if err == nil {
		known, err = e.remembers(ctx, mark())
	}
	return isNew, known && e.process.Current(j.task.Redis), err
}

// readMark returns a command for the round trip of a claim, and its reply for remembers.
func (e *Engine) readMark(ctx context.Context) (reply func() *redis.StringCmd, read func(redis.Pipeliner)) {
	var mark *redis.StringCmd
	return func() *redis.StringCmd { return mark }, func(pipe redis.Pipeliner) { mark = pipe.Get(ctx, replid.MarkKey) }
}

// remembers reports whether Redis knows all claims of living processes.
func (e *Engine) remembers(ctx context.Context, mark *redis.StringCmd) (bool, error) {
	if err := mark.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return false, err
	}
	return e.process.Remembers(ctx, mark.Val())
}

// countStarted counts a call of this run; the first call also counts an attempt.
func (j *job) countStarted() {
	j.counts.calls++
	if j.startedAt.IsZero() {
		j.startedAt = time.Now()
		j.counts.attempts++
		j.observeStart()
	}
}

// count records the next call of these tasks before it is sent. Its error means that the
// call must not be sent: it could not be counted, another process owns a task, or a task
// has used up its calls. Without that rule a failing Redis would allow endless calls.
// Counts of a call that is not sent are reverted.
func (e *Engine) count(ctx context.Context, members []*job) error {
	for _, j := range members {
		if failure := cmp.Or(j.exhausted(), j.overBudget()); failure != nil {
			return failure
		}
	}
	ctx, done := e.whileWanted(ctx, members)
	defer done()
	if len(members) == 1 && !members[0].held && members[0].startedAt.IsZero() {
		return e.countNew(ctx, members[0])
	}
	err := e.whileRefused(ctx, members, func() error { return e.countAll(ctx, members) })
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		e.uncount(ctx, members)
		return err
	}
	for _, j := range members {
		j.countStarted()
	}
	return nil
}

// whileWanted returns a context for the count of a call. It ends when no task of the call
// needs it any more: each has passed its deadline, was cancelled, or its worker stops. A
// sick Redis may take longer than that, and the call would be paid for in vain.
func (e *Engine) whileWanted(ctx context.Context, members []*job) (context.Context, func()) {
	if len(members) == 1 {
		return members[0].waitContext(ctx)
	}
	model := members[0].task.Model
	ctx, end := context.WithCancelCause(ctx)
	var left atomic.Int64
	left.Store(int64(len(members)))
	ends := make([]func(), len(members))
	for i, j := range members {
		turn, done := j.waitContext(ctx)
		stop := context.AfterFunc(turn, func() {
			if left.Add(-1) == 0 {
				end(&gate.RetryLaterError{Model: model, Until: time.Now(), Reason: "no task of the call needs it any more"})
			}
		})
		ends[i] = func() { stop(); done() }
	}
	return ctx, func() {
		for _, done := range ends {
			done()
		}
		end(nil)
	}
}

// countAll writes the next call into the records of tasks that this process owns.
func (e *Engine) countAll(ctx context.Context, members []*job) error {
	next := make([]taskstate.Call, len(members))
	for i, j := range members {
		next[i] = taskstate.Call{Task: j.record(), Calls: j.counts.calls + 1, Attempts: j.counts.attempts + j.firstCall(), Settled: j.counts.settled + j.refused, Unpaid: j.counts.unpaid}
	}
	counted := e.owner().Count(ctx, next)
	var failed, lost error
	for i, j := range members {
		switch {
		case counted[i].Err != nil:
			failed = &redisError{fmt.Errorf("count the call: %w", counted[i].Err)}
		case counted[i].Refused:
			j.held, lost = false, errOwned()
		}
	}
	return cmp.Or(lost, failed)
}

// firstCall returns 1 when the next call is the first of this run, which counts an attempt.
func (j *job) firstCall() int {
	if j.startedAt.IsZero() {
		return 1
	}
	return 0
}

// uncount reverts the counts of a call that is not sent. A record that cannot be reached
// now is corrected when the task is released.
func (e *Engine) uncount(ctx context.Context, members []*job) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	before := make([]taskstate.Call, len(members))
	for i, j := range members {
		before[i] = taskstate.Call{Task: j.record(), Calls: j.counts.calls, Attempts: j.counts.attempts}
	}
	for _, err := range e.owner().Uncount(ctx, before) {
		if err != nil {
			e.cfg.Log.Debug("a call that was not sent stays counted for now", "error", clean(err.Error()))
		}
	}
}

// countFailed counts a run that failed before its first call, so that it cannot be
// repeated without end.
func (e *Engine) countFailed(ctx context.Context, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	n, err := e.owner().CountFailure(ctx, j.record())
	if err != nil {
		return &redisError{fmt.Errorf("count a failure: %w", err)}
	}
	j.counts.attempts = n
	return nil
}

// renewRecord replaces a damaged live record. If that fails, the task's next run tries
// again.
func (e *Engine) renewRecord(ctx context.Context, j *job) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := e.owner().Renew(ctx, j.record())
	e.cfg.Log.Error("the live record of a task was damaged and is replaced", "task", j.task.ID, "error", err)
}

// recordCounters returns the counters of the task after this run, for its record; nil when
// they could not be read.
func (j *job) recordCounters() *taskstate.Counters {
	if j.unread {
		return nil
	}
	c := j.counts
	return &taskstate.Counters{
		Attempts: c.attempts, Calls: c.calls, Settled: c.settled + j.refused, Unpaid: c.unpaid,
		Unusable: c.unusable, Neurons: c.costs.record(), Failure: j.failureRecord(),
	}
}

// refundAttempt refunds the current attempt.
func (j *job) refundAttempt() {
	if j.startedAt.IsZero() || j.refunded {
		return
	}
	j.refunded = true
	j.counts.unpaid++
}

// recordOutcome records the outcome and the cost of a call of this run. neurons is this task's
// share of the price; priced means that the API itself stated the price.
func (j *job) recordOutcome(err error, neurons float64, priced bool) {
	if isUnusable(err) {
		j.counts.unusable++
	}
	switch {
	case err == nil:
		j.counts.costs.answered(j.counts.calls, neurons)
	case !perhapsBilled(err) && (!priced || neurons == 0):
		j.refused++ // or it was not sent at all
	case priced:
		j.counts.costs.lose(j.counts.calls, neurons)
	}
}

// perhapsBilled reports whether a call that failed may have been billed.
func perhapsBilled(err error) bool {
	api, answered := errors.AsType[*workersai.Error](err)
	panicked := errors.As(err, new(*tasks.TaskError)) // perhaps after the call
	return answered && api.Lost() || isUnusable(err) || panicked
}

// priceOf returns the price of a call: 0 if it was not billed, less than 0 if it is not known.
func priceOf(err error, meta workersai.Meta) float64 {
	switch {
	case err == nil || meta.Priced:
		return meta.Neurons
	case perhapsBilled(err):
		return -1
	}
	return 0
}
