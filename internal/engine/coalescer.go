package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// coalescer joins the texts of many tasks in one provider call, if the model takes several
// texts at once. Tasks join a group while they wait for the gate, and a call carries as
// many of them as the model takes. Coalescing adds no latency: a single text is sent as
// soon as the gate is open.
type coalescer struct {
	mu     sync.Mutex
	groups map[route]any // a *group of the answers of its kind
}

// route is what texts must have in common to share a call.
type route struct {
	model   string
	kind    tasks.Kind
	lane    tasks.Lane
	options string
	budget  string // the caps on their cost
}

// entry is a part of a task that fits into one call.
//
// Its context ends with the deadline of the task, its cancellation and the stop of the
// worker. The entry keeps it because another goroutine makes the call, for many entries:
// that goroutine stops waiting when the contexts of all its entries have ended.
type entry[T any] struct {
	ctx    context.Context
	j      *job
	texts  []string
	tokens int     // estimated
	most   float64 // highest price of the texts
	first  bool    // its task has sent no call in this run
	reply  chan reply[T]

	// The group's mutex guards these.
	inFlight  bool // a call carries the entry, so it may be paid for
	withdrawn bool // its task has stopped waiting
}

// reply is the outcome of an entry's call.
type reply[T any] struct {
	answers []T // one per text
	err     error
	leave   func() // ends the isolation in which the call ran; nil when there was no call
}

// group holds the entries of one route that wait for a call.
type group[T any] struct {
	engine *Engine
	to     route
	model  catalogue.Model
	send   func(context.Context, []string) ([]T, workersai.Meta, error)

	mu       sync.Mutex
	waiting  []*entry[T]
	flushing bool               // a goroutine waits at the gate for the group
	abandon  context.CancelFunc // ends that wait
	joined   chan struct{}      // signals with one element that an entry joined
}

// groupOf returns the group of a route; it creates a missing one.
func groupOf[T any](e *Engine, to route, send func(context.Context, []string) ([]T, workersai.Meta, error)) *group[T] {
	e.coalescer.mu.Lock()
	defer e.coalescer.mu.Unlock()
	if e.coalescer.groups == nil {
		e.coalescer.groups = map[route]any{}
	}
	g, ok := e.coalescer.groups[to].(*group[T])
	if !ok {
		model, _ := catalogue.Find(to.model)
		g = &group[T]{engine: e, to: to, model: model, send: send, joined: make(chan struct{}, 1)}
		e.coalescer.groups[to] = g
	}
	return g
}

// submit sends texts of a task, together with those of other tasks, and returns one answer
// per text. It waits until the task's deadline, its cancellation or the stop of the worker.
// A call that runs at that moment is paid for, so submit waits for its answer.
func (g *group[T]) submit(ctx context.Context, j *job, texts []string, most float64) ([]T, error) {
	ctx, cancel := j.waitContext(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	e := &entry[T]{ctx: ctx, j: j, texts: texts, most: most, first: j.startedAt.IsZero(), reply: make(chan reply[T], 1)}
	for _, t := range texts {
		e.tokens += g.model.EstimateTokens(t)
	}
	j.comesToGate()
	defer g.engine.markIdleLater(ctx, j)()
	defer g.engine.longWaits.watch(g.engine, waitAtGate(j.task.Model), j)()
	j.leaveIsolation()
	if err := g.join(ctx, e); err != nil {
		return nil, err
	}
	var r reply[T]
	select {
	case r = <-e.reply:
	case <-ctx.Done():
		if g.withdraw(e) {
			return nil, context.Cause(ctx)
		}
		r = <-e.reply // within the time limit of the call
	}
	j.leaveFunc = r.leave
	return r.answers, r.err
}

// join adds an entry to the group. In a queue that several models share, a group may not
// take all worker slots: beyond its limit an entry is refused with a RetryLaterError.
func (g *group[T]) join(ctx context.Context, e *entry[T]) error {
	shared := e.first && g.engine.sharesQueue(ctx, g.to.kind, g.to.lane)
	g.mu.Lock()
	defer g.mu.Unlock()
	if shared && len(g.waiting) >= g.engine.waitingSlots(g.to.kind) {
		return &gate.RetryLaterError{Model: g.to.model, Until: time.Now(), Reason: gate.Paced}
	}
	g.waiting = append(g.waiting, e)
	select {
	case g.joined <- struct{}{}:
	default:
	}
	if !g.flushing {
		g.flushing = true
		base := context.WithoutCancel(ctx) // one entry's end must not end the wait of the others
		g.engine.runs.Go(func() { g.flush(base) })
	}
	return nil
}

// withdraw takes an entry out of the group; it returns false when a call carries the entry.
func (g *group[T]) withdraw(e *entry[T]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.inFlight {
		return false
	}
	e.withdrawn = true
	if i := slices.Index(g.waiting, e); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	if len(g.waiting) == 0 && g.abandon != nil {
		g.abandon()
	}
	return true
}

// flush acquires permits from the gate and sends a call with each, until no entry waits.
func (g *group[T]) flush(base context.Context) {
	for {
		ctx, done := g.whileWaiting(base)
		if ctx == nil {
			return
		}
		g.flushOnce(ctx, base)
		done()
	}
}

// whileWaiting returns a context that ends when no entry waits any more. The context is
// nil when none waits now: the next entry to join starts another flush.
func (g *group[T]) whileWaiting(base context.Context) (ctx context.Context, done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flushing = len(g.waiting) > 0
	if !g.flushing {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(base)
	g.abandon = cancel
	return ctx, cancel
}

// flushOnce waits for one permit and sends a call with it, unless the bucket takes no
// results. The wait ends with ctx; base is the context of the call.
func (g *group[T]) flushOnce(ctx, base context.Context) {
	g.linger(ctx)
	if err := g.engine.bucketReady(ctx); err != nil && ctx.Err() == nil {
		g.refuse(ctx, err)
		return
	}
	permit, err := g.engine.cfg.Gate.Acquire(ctx, g.ask())
	switch {
	case err != nil && ctx.Err() != nil:
		return // no entry waits any more
	case err != nil:
		g.refuse(ctx, err)
		return
	}
	g.engine.longWaits.over(waitAtGate(g.to.model))
	batch := g.nextBatch()
	if len(batch) == 0 {
		permit.GiveBack(base)
		return
	}
	leave := g.engine.isolation.tryEnter(crashesOf(batch)...)
	if leave == nil { // another goroutine waits for the batch's isolation
		permit.GiveBack(base)
		g.engine.runs.Go(func() { g.sendParts(base, batch, len(batch)) })
		return
	}
	g.engine.runs.Go(func() { g.sendBatch(base, permit, batch, leave) })
}

func crashesOf[T any](batch []*entry[T]) []int {
	crashes := make([]int, len(batch))
	for i, e := range batch {
		crashes[i] = e.j.crashes()
	}
	return crashes
}

func (g *group[T]) ask() gate.Request {
	return gate.Request{Model: g.to.model, Kind: string(g.to.kind), Lane: string(g.to.lane)}
}

// lingerGap is how long linger waits for the next entry before it flushes the group. Bulk waits
// for up to lingerGaps of these gaps while this process has tasks outside the group: all worker
// slots may be taken, and each task that ends frees one for another entry.
const (
	lingerGap  = 25 * time.Millisecond
	lingerGaps = 20
)

// linger waits for a full batch as long as the queue has more tasks and they keep coming.
func (g *group[T]) linger(ctx context.Context) {
	for gaps := 0; !g.full() && g.engine.backlog(ctx, tasks.Queue(g.to.kind, g.to.lane)); {
		select {
		case <-ctx.Done():
			return
		case <-g.joined:
			gaps = 0
		case <-time.After(lingerGap):
			gaps++
			if g.to.lane != tasks.Bulk || gaps == lingerGaps || g.engine.runningCount.Load() == g.length() {
				return
			}
		}
	}
}

// length returns how many entries wait.
func (g *group[T]) length() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int64(len(g.waiting))
}

// full reports whether the waiting entries fill a call.
func (g *group[T]) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	texts := 0
	for _, e := range g.waiting {
		texts += len(e.texts)
	}
	return texts >= g.model.Texts
}

// backlog reports whether a queue has tasks that no worker has taken.
func (e *Engine) backlog(ctx context.Context, name string) bool {
	n, err := queue.Pending(ctx, e.cfg.Redis, name)
	return err == nil && n > 0
}

// nextBatch claims as many waiting entries as fit into one call, oldest first. Tasks that
// may crash a worker are not joined with others, see isolation.
func (g *group[T]) nextBatch() []*entry[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var batch []*entry[T]
	texts, tokens := 0, 0
	for _, e := range g.waiting {
		if len(batch) > 0 && !joinable(batch, e) {
			continue
		}
		texts, tokens = texts+len(e.texts), tokens+e.tokens
		if len(batch) > 0 && (texts > g.model.Texts || g.model.CallTokens > 0 && tokens > g.model.CallTokens) {
			break
		}
		batch = append(batch, e)
	}
	for _, e := range batch {
		e.inFlight = true
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(e *entry[T]) bool { return e.inFlight })
	return batch
}

// joinable reports whether an entry may share the call of a batch. Tasks without crashes
// share with each other, suspects with a few suspects, an exclusive task with none.
func joinable[T any](batch []*entry[T], e *entry[T]) bool {
	first, crashes := batch[0].j.crashes(), e.j.crashes()
	if first == 0 || crashes == 0 {
		return first == crashes
	}
	return !exclusive(first) && !exclusive(crashes) && len(batch) < fewSuspects
}

// markInFlight marks an entry as carried by a call; it returns false when the entry is withdrawn.
func (g *group[T]) markInFlight(e *entry[T]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	e.inFlight = !e.withdrawn
	return e.inFlight
}

// unmark marks entries as waiting again and returns those whose context has not ended. The
// others get the cause as their reply, which their tasks already wait for.
func (g *group[T]) unmark(batch []*entry[T]) []*entry[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var left []*entry[T]
	for _, e := range batch {
		if e.ctx.Err() != nil {
			e.reply <- reply[T]{err: context.Cause(e.ctx)}
			continue
		}
		e.inFlight = false
		left = append(left, e)
	}
	return left
}

// refuse handles an error of the gate. An entry gets it as its reply and leaves its worker
// slot if several models share the queue, if the gate stays closed beyond the deadline, or
// if the error is no RetryLaterError. Entries of a task that has paid for other parts keep
// waiting.
func (g *group[T]) refuse(ctx context.Context, err error) {
	pause, closed := errors.AsType[*gate.RetryLaterError](err)
	all := !closed || pause.Model != gate.Account && g.engine.sharesQueue(ctx, g.to.kind, g.to.lane)
	g.mu.Lock()
	g.waiting = slices.DeleteFunc(g.waiting, func(e *entry[T]) bool {
		e.j.waitsAtGate(err)
		refused := all || outlasts(pause, e.j.task.Deadline)
		if !e.first || !refused {
			return false
		}
		e.inFlight = true // an entry with a reply cannot be withdrawn
		e.reply <- reply[T]{err: err}
		return true
	})
	g.mu.Unlock()
	if !closed {
		pause = &gate.RetryLaterError{Until: time.Now().Add(sharingCachedFor)}
	}
	_ = wait(ctx, retryDelayAtGate(pause))
}

// sendBatch sends a batch in one call and gives each entry its reply, with its part of the
// isolation. If the call's error would fail a task of the batch, the batch is split, since
// one of its texts may be the cause.
func (g *group[T]) sendBatch(ctx context.Context, permit *gate.Permit, batch []*entry[T], leave []func()) {
	answers, err := g.call(ctx, permit, batch)
	if len(batch) > 1 && fails(batch, err) {
		for _, l := range leave {
			l()
		}
		g.split(ctx, batch)
		return
	}
	for i, e := range batch {
		r := reply[T]{err: e.refusal(err), leave: leave[i]}
		if err == nil {
			r.answers, answers = answers[:len(e.texts)], answers[len(e.texts):]
		}
		e.reply <- r
	}
}

// refusal returns the error of a call as that of the entry: a cap that has no room for all of
// the call may have room for the entry later.
func (e *entry[T]) refusal(err error) error {
	if over, ok := errors.AsType[*budget.ExceededError](err); ok {
		return over.For(e.most, time.Now())
	}
	return err
}

// fails reports whether the error of a call would fail one of its tasks, the request was
// blocked, or a cap has no room for it. One text may be the cause: it is invalid, or it breaks
// every call. A part of the texts may have room.
func fails[T any](batch []*entry[T], err error) bool {
	if api, ok := errors.AsType[*workersai.Error](err); ok && api.Reason() == workersai.RequestBlocked {
		return true
	}
	if over, ok := errors.AsType[*budget.ExceededError](err); ok {
		return slices.ContainsFunc(batch, func(e *entry[T]) bool { return over.Fits(e.most) })
	}
	return err != nil && slices.ContainsFunc(batch, func(e *entry[T]) bool {
		return retryPolicy(err, e.j.counts, e.j.spec).fail != nil
	})
}

// splitSinglesUpTo is the size up to which a refused batch is split into single entries.
const splitSinglesUpTo = 10

// split sends a batch in parts of the square root of its size, then each entry of a failing
// part alone. That finds one bad entry of a hundred and sends each text at most three times.
func (g *group[T]) split(ctx context.Context, batch []*entry[T]) {
	size := 1
	if len(batch) > splitSinglesUpTo {
		size = min(splitSinglesUpTo, int(math.Ceil(math.Sqrt(float64(len(batch))))))
	}
	g.sendParts(ctx, batch, size)
}

// sendParts sends the entries of a batch that have time left, at most size in a call.
func (g *group[T]) sendParts(ctx context.Context, batch []*entry[T], size int) {
	for part := range slices.Chunk(g.unmark(batch), size) {
		g.sendPart(ctx, part)
	}
}

// sendPart waits for a permit as long as an entry of the part waits, and sends the entries
// that are left.
func (g *group[T]) sendPart(ctx context.Context, part []*entry[T]) {
	waiting, done := untilAllEnd(ctx, part)
	defer done()
	last := slices.MaxFunc(part, func(a, b *entry[T]) int { return a.j.task.Deadline.Compare(b.j.task.Deadline) })
	ask := g.ask()
	ask.Patience = max(time.Until(last.j.task.Deadline), time.Millisecond)
	permit, leave, err := g.engine.permit(waiting, ask, crashesOf(part)...)
	var claimed []*entry[T]
	var stay []func()
	for i, e := range part {
		switch {
		case !g.markInFlight(e):
			if err == nil {
				leave[i]()
			}
		case err != nil:
			e.j.waitsAtGate(err)
			e.reply <- reply[T]{err: err}
		default:
			claimed, stay = append(claimed, e), append(stay, leave[i])
		}
	}
	switch {
	case err != nil:
	case len(claimed) == 0:
		permit.GiveBack(ctx)
	default:
		g.sendBatch(ctx, permit, claimed, stay)
	}
}

// untilAllEnd returns a context that ends when the contexts of all entries have ended.
func untilAllEnd[T any](ctx context.Context, entries []*entry[T]) (all context.Context, done func()) {
	all, cancel := context.WithCancel(ctx)
	var left atomic.Int64
	left.Store(int64(len(entries)))
	stops := make([]func() bool, len(entries))
	for i, e := range entries {
		stops[i] = context.AfterFunc(e.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
	}
	return all, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// call sends one request for a batch.
func (g *group[T]) call(ctx context.Context, permit *gate.Permit, batch []*entry[T]) ([]T, error) {
	var texts []string
	var jobs []*job
	total, most := 0, 0.0
	for _, e := range batch {
		texts, jobs, total, most = append(texts, e.texts...), append(jobs, e.j), total+e.tokens, most+e.most
	}
	for _, e := range batch {
		e.j.share = float64(e.tokens) / float64(total)
		e.j.setMost(e.j.share * most) // so that no share of the price can be higher
	}
	var answers []T
	_, err := g.engine.call(ctx, permit, jobs, func(ctx context.Context) (meta workersai.Meta, err error) {
		answers, meta, err = g.send(ctx, texts)
		if err == nil && len(answers) != len(texts) {
			err = &UnusableError{fmt.Errorf("%d answers came for %d texts", len(answers), len(texts))}
		}
		return meta, err
	})
	return answers, err
}
