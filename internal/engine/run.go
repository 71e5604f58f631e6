package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// job is one run of a task.
type job struct {
	engine *Engine
	task   tasks.Task
	spec   tasks.Spec
	raw    []byte // the queued message, if it could not be decoded
	counts counters
	ownership
	stops
	attempt
	outcome
	reasons reasons // why the task has not ended yet
}

// ownership holds the claim of a run on its task and its part of the worker's isolation.
type ownership struct {
	held      bool        // this process owns the task
	fresh     bool        // no earlier run has sent a call or ended the task
	notNew    bool        // the claim with the first call was refused: there was an earlier run
	unread    bool        // the counters could not be read
	idle      atomic.Bool // the task only waits for a permit, and its record says so
	mayCall   atomic.Bool // the run may send calls
	leaveFunc func()      // ends the task's isolation; nil outside isolation
}

// stops holds what ends the waits of a run. The run keeps the contexts because the queue
// and the heartbeat end them from outside.
type stops struct {
	draining  context.Context // ends when the worker stops or the queue cancels the run
	cancelled context.Context // ends when the task is cancelled
	cancel    context.CancelFunc
}

// attempt is the account of the calls of a run.
type attempt struct {
	startedAt time.Time // time of the first call in this run; zero before it
	cameAt    time.Time // time at which the run asked for a permit last; zero before it
	refused   int       // calls of this run that cost nothing
	share     float64   // the task's share of the price of the next call; 0 means all
	most      float64   // highest price of the next call by the price list
	dearest   float64   // highest of the prices most so far
	refunded  bool      // the attempt of this run is refunded
}

// outcome says which objects of the task's result exist.
type outcome struct {
	resultExists bool     // see findResult and storeResult
	failed       bool     // this run wrote its failure
	answers      []string // keys of stored checkpoints
	// storesSince is when the run began to store its output, and stored how long that took.
	storesSince time.Time
	stored      time.Duration
}

func (j *job) key(name string) string { return objects.ArtefactKey(j.task.Tenant, j.task.ID, name) }

// ProcessTask runs a task from the queue to its result. It returns nil to acknowledge the
// task, else an error with the delay before its next run.
func (e *Engine) ProcessTask(ctx context.Context, d queue.Delivery) error {
	failpoint.Hit("taken")
	task, err := tasks.Decode(d.Payload)
	if err == nil && (task.ID != d.ID || tasks.Queue(task.Kind, task.Lane) != d.Queue) {
		err = fmt.Errorf("decode the task: it is queued as %s in %s, and is not that", d.ID, d.Queue)
	}
	if err != nil {
		return e.failUndecodable(ctx, d, task, err)
	}
	if task.Ended {
		return nil // a tombstone
	}
	e.runs.Add(1)
	defer e.runs.Done()
	draining, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(e.stopping, stop)()
	j := &job{engine: e, task: task, stops: stops{draining: draining}}
	j.cancelled, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer j.cancel()
	if !e.register(j) {
		// The queue delivered the task again while its first run still waits for a paid
		// call. The first run decides; there is no second call.
		return &requeueError{after: 5 * time.Second, why: "already running here"}
	}
	defer e.unregister(j)
	// The run may pay and must then store the answer, so only our own time limits end it;
	// a lost lease or a stopping worker does not.
	ctx = context.WithoutCancel(ctx)
	return e.finish(ctx, j, e.runSafely(ctx, j))
}

// runSafely runs the task and turns a panic into its failure: a retry would panic again.
func (e *Engine) runSafely(ctx context.Context, j *job) (err error) {
	defer e.recoverPanic(&err)
	err = e.run(ctx, j)
	if errors.Is(err, errNotNew) {
		err = e.run(ctx, j)
	}
	return err
}

// recoverPanic turns a panic into an error.
func (e *Engine) recoverPanic(err *error) {
	if r := recover(); r != nil {
		e.cfg.Log.Error("a handler panicked", "panic", clean(fmt.Sprint(r)), "stack", string(debug.Stack()))
		*err = &tasks.TaskError{Code: tasks.CodeInternalError, Message: "the worker failed on this task; its log says where"}
	}
}

// run is the life of a task in this process, in the order in which it happens. It returns
// nil when the task has its result, and errNotNew when the task must run again from the top
// because an earlier run is known by now.
func (e *Engine) run(ctx context.Context, j *job) error {
	j.spec, _ = tasks.SpecOf(j.task.Kind)

	// Wait for the bucket, and after a failover of Redis for the owners that live.
	if err := e.awaitBucket(ctx, j); err != nil {
		return err
	}
	if err := e.awaitStabilisation(ctx, j); err != nil {
		return err
	}

	// Is the result there already? The record of a fresh task would tell of earlier runs.
	j.fresh = e.recorded(j.task)
	if !j.fresh {
		if err := e.findResult(ctx, j); err != nil || j.resultExists {
			return err
		}
	}

	// Claim, and look again if the record tells of a run that may have stored the result.
	defer j.leaveIsolation()
	if err := e.claimIsolated(ctx, j); err != nil {
		return err
	}
	if j.counts.calls > 0 || j.counts.ended {
		j.fresh = false
		if err := e.findResult(ctx, j); err != nil || j.resultExists {
			return err
		}
	}

	// May it run? A task that is cancelled, expired, poisoned or has failed may not.
	if err := e.terminal(j); err != nil {
		return err
	}
	payload, err := j.task.Input(ctx, e.cfg.Store)
	if err != nil {
		return err
	}

	// Take up the checkpoint of an earlier run, or do the work.
	out, err := e.resume(ctx, j)
	if err == nil && out == nil {
		call := &Call{AI: e.cfg.AI, Model: j.task.Model, Tenant: j.task.Tenant, j: j}
		out, err = e.handlers[j.task.Kind].Run(ctx, call, payload)
	}
	if err != nil {
		return err
	}

	// Commit: artefacts first, the result last.
	return e.commit(ctx, j, out)
}

// awaitStabilisation waits until other living owners have registered, see package liveness.
func (e *Engine) awaitStabilisation(ctx context.Context, j *job) error {
	if err := e.process.CheckFailover(j.draining); err != nil { // not bound by the deadline: an expired task must end, not retry
		return &redisError{err}
	}
	ctx, stop := j.waitContext(ctx)
	defer stop()
	if left := e.process.StabilisationLeft(j.task.Redis, j.task.CreatedAt); left > 0 {
		return wait(ctx, left)
	}
	return nil
}

// recordedFor is how long after acceptance a task's live record is complete: less than
// LiveTTL, with a margin for clock skew.
const recordedFor = 10 * time.Minute

// recorded reports whether the live record shows every earlier run of a task, so that the
// bucket need not be asked for a result. Redis has lost nothing since it accepted the
// task, and no record of the task can have expired.
func (e *Engine) recorded(t tasks.Task) bool {
	age := time.Since(t.CreatedAt)
	return e.process.Current(t.Redis) && t.RecoveredAt.IsZero() && age > -time.Minute && age < recordedFor
}

// findResult sets resultExists when the task has a stored result.
func (e *Engine) findResult(ctx context.Context, j *job) error {
	_, err := e.cfg.Store.Head(ctx, objects.ResultKey(j.task.Tenant, j.task.ID))
	switch {
	case err == nil:
		j.resultExists = true
	case !errors.Is(err, storage.ErrNotFound):
		return fmt.Errorf("look for the result: %w", err)
	}
	return nil
}

// claimIsolated makes this process the task's owner, in the isolation that the task needs. A
// new task whose first step is its only call is claimed with that call, see countNew.
func (e *Engine) claimIsolated(ctx context.Context, j *job) error {
	waiting, stop := j.waitContext(ctx)
	defer stop()
	if err := j.isolate(waiting, 0); err != nil {
		return err
	}
	single := e.handlers[j.task.Kind].SingleCall
	if j.fresh && !j.notNew && single != nil && single(j.task) {
		return nil
	}
	err := e.claimToCall(ctx, j, false)
	if err != nil || j.crashes() == 0 || e.terminal(j) != nil {
		return err
	}
	// A suspect does no work while it waits for isolation, so a crash now does not count
	// against it. Nor does one between its claim and here.
	j.mayCall.Store(false)
	e.release(ctx, j)
	j.leaveIsolation()
	if err := j.isolate(waiting, j.crashes()); err != nil {
		return err
	}
	return e.claimToCall(ctx, j, true)
}

// claimToCall claims the task and sets mayCall: the run may send calls.
func (e *Engine) claimToCall(ctx context.Context, j *job, isolated bool) error {
	j.mayCall.Store(true)
	err := e.claim(ctx, j, isolated)
	if err != nil {
		j.mayCall.Store(false)
	}
	return err
}

// terminal returns why a task must end without running: failed, cancelled, poisoned or
// expired; nil when it may run.
func (e *Engine) terminal(j *job) error {
	switch {
	case j.counts.failure != nil:
		return j.counts.failure
	case j.counts.cancelled || j.task.Cancelled:
		return errCancelled
	case j.counts.crashes >= crashLimit:
		return &tasks.TaskError{Code: tasks.CodePoisoned, Message: fmt.Sprintf("%d workers died while they were at it", j.counts.crashes)}
	case !time.Now().Before(j.task.Deadline):
		return deadlineExceeded(j.task.Deadline)
	}
	return nil
}
