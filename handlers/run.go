package handlers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/catalogue"
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
	fresh     bool            // no run before this one has sent a call or ended it
	held      bool            // this process is the task's holder
	inBody    atomic.Bool     // it may send calls
	draining  context.Context // ends when the worker stops or the queue takes the task back
	cancelled context.Context // ends when a person cancels the task
	cancel    context.CancelFunc
	startedAt time.Time // of the first call in this run; zero before it
	refused   int       // calls of this run that cost nothing
	answered  int       // calls whose answers this run has
	givenBack bool      // this run does not count as an attempt
	neurons   float64
	over      bool     // it has its result from another run
	failed    bool     // this run wrote its failure
	answers   []string // keys of stored answers
	raw       []byte   // what could not be decoded
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
		return h.refuse(ctx, id, queued, err)
	}
	h.runs.Add(1)
	defer h.runs.Done()
	draining, stop := context.WithCancel(ctx)
	defer stop()
	if h.cfg.on(guardDrain) {
		defer context.AfterFunc(h.stopping, stop)()
	}
	j := &job{h: h, task: task, draining: draining}
	j.cancelled, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer j.cancel()
	if !h.begin(j) {
		// The queue gave the task out again while the first run still holds a paid
		// call: that run's end decides, not a second call.
		return &handback{after: 5 * time.Second, why: "already running here"}
	}
	defer h.end(j)
	// It may pay and must then store, so only our own time limits end it; a lost lease
	// or a stopping worker does not.
	ctx = context.WithoutCancel(ctx)
	return h.settle(ctx, j, h.guarded(ctx, j))
}

// guarded turns a panic into the task's failure: it would come again the same way.
func (h *Handlers) guarded(ctx context.Context, j *job) (err error) {
	defer h.rescue(&err)
	return h.run(ctx, j)
}

// rescue makes a panic an error.
func (h *Handlers) rescue(err *error) {
	if !h.cfg.on(guardRecover) {
		return
	}
	if r := recover(); r != nil {
		h.cfg.Log.Error("a handler panicked", "panic", clean(fmt.Sprint(r)), "stack", string(debug.Stack()))
		*err = &tasks.Failure{Code: "internal_error", Message: "the worker failed on this task; its log says where"}
	}
}

// run does the task unless it has ended already.
func (h *Handlers) run(ctx context.Context, j *job) error {
	if err := h.await(ctx, j); err != nil {
		return err
	}
	j.spec, _ = tasks.SpecOf(j.task.Kind)
	j.fresh = h.recorded(j.task) // unless its record says otherwise
	if j.fresh && oneCall(j.task) {
		if err := h.attempt(ctx, j, h.stay); !errors.Is(err, errKnown) {
			return err
		}
	}
	if !j.fresh {
		if err := h.findResult(ctx, j); err != nil || j.over {
			return err
		}
	}
	return h.attempt(ctx, j, h.enter)
}

// oneCall reports whether nothing is done for a task before its only call. Such a task
// is taken when that is counted, in one step, if it turns out that it never ran before.
func oneCall(t tasks.Task) bool {
	row, _ := catalogue.Find(t.Model)
	return t.Kind == tasks.KindText || t.Kind == tasks.KindTranslation && row.Texts <= 1
}

// attempt does the task in this process, once it may.
func (h *Handlers) attempt(ctx context.Context, j *job, enter func(context.Context, *job) (leave func(), err error)) error {
	leave, err := enter(ctx, j)
	if err != nil {
		return err
	}
	defer leave()
	if j.counts.calls > 0 || j.counts.ended { // whoever ran it may have stored the result
		j.fresh = false
		if err := h.findResult(ctx, j); err != nil || j.over {
			return err
		}
	}
	if err := h.ended(j); err != nil {
		return err
	}
	payload, err := j.task.Input(ctx, h.cfg.Store)
	if err != nil {
		return err
	}
	out, err := h.resume(ctx, j)
	if err == nil && out == nil {
		out, err = h.work(ctx, j, payload)
	}
	if err != nil {
		return err
	}
	return h.keep(ctx, j, out)
}

// await waits until it is known what other workers are at.
func (h *Handlers) await(ctx context.Context, j *job) error {
	if !h.cfg.on(guardLineage) {
		return nil
	}
	ctx, stop := j.turn(ctx)
	defer stop()
	return h.presence.await(ctx, j.task)
}

// recordedFor is how long after its acceptance a task's live record is relied on: less
// than LiveTTL, with room for clocks that are off.
const recordedFor = 10 * time.Minute

// recorded reports whether all that was ever done for a task stands in its live record,
// so that the bucket need not be asked for a result: Redis has lost nothing since it
// took the task, and no record of it can have expired.
func (h *Handlers) recorded(t tasks.Task) bool {
	age := time.Since(t.CreatedAt)
	return h.presence.lineage.took(t) && t.RecoveredAt.IsZero() && age > -time.Minute && age < recordedFor
}

// findResult says in the job whether the task has its result.
func (h *Handlers) findResult(ctx context.Context, j *job) error {
	_, err := h.cfg.Store.Head(ctx, tasks.ResultKey(j.task.Tenant, j.task.ID))
	switch {
	case err == nil:
		j.over = h.cfg.on(guardResultFirst)
	case !errors.Is(err, storage.ErrNotFound):
		return fmt.Errorf("look for the result: %w", err)
	}
	return nil
}

// stay lets a task wait here that nobody holds yet.
func (h *Handlers) stay(ctx context.Context, j *job) (leave func(), err error) {
	waiting, stop := j.turn(ctx)
	defer stop()
	return h.room.enter(waiting, 0)
}

// enter makes this process the task's holder, in the company that suits it.
func (h *Handlers) enter(ctx context.Context, j *job) (leave func(), err error) {
	waiting, stop := j.turn(ctx)
	defer stop()
	if leave, err = h.room.enter(waiting, 0); err != nil {
		return nil, err
	}
	j.inBody.Store(true)
	err = h.take(ctx, j)
	if err == nil && j.counts.crashes > 0 && h.cfg.on(guardAlone) && h.ended(j) == nil {
		// While a suspect waits for its company it is at nothing, and not to blame.
		j.inBody.Store(false)
		h.release(ctx, j)
		leave()
		if leave, err = h.room.enter(waiting, j.counts.crashes); err != nil {
			return nil, err
		}
		j.inBody.Store(true)
		err = h.take(ctx, j)
	}
	if err != nil {
		j.inBody.Store(false)
		leave()
		return nil, err
	}
	return leave, nil
}

// ended is how a task ends without being done.
func (h *Handlers) ended(j *job) error {
	switch {
	case (j.counts.cancelled || j.task.Cancelled) && h.cfg.on(guardCancel):
		return errCancelled
	case j.counts.crashes >= crashLimit && h.cfg.on(guardPoison):
		return &tasks.Failure{Code: "poisoned", Message: fmt.Sprintf("%d workers died while they were at it", j.counts.crashes)}
	case !time.Now().Before(j.task.Deadline) && h.cfg.on(guardDeadline):
		return deadlineExceeded(j.task.Deadline)
	}
	return nil
}
