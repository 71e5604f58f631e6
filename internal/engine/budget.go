package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

// budgets are the caps on the cost of a day as this process knows them. Without a cap, a
// call costs no further command of Redis.
type budgets struct {
	caps *budget.Caps

	mu      sync.Mutex
	known   bool
	all     []budget.Cap
	changed time.Time                        // when this process saw another list of caps; zero before
	refused map[string]*budget.ExceededError // the cheapest call that each cap refuses for the rest of its day
}

// refresh reads the caps, with each heartbeat. Without an answer the last ones hold. After a
// change, tasks that wait for a budget may go on.
func (b *budgets) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all, err := b.caps.List(ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	if b.known && !slices.Equal(b.all, all) {
		b.changed = time.Now()
	}
	if !b.known || !slices.Equal(b.all, all) {
		b.refused = map[string]*budget.ExceededError{}
	}
	b.known, b.all = true, all
	changed := b.changed
	b.mu.Unlock()
	if time.Since(changed) < releaseFor {
		return queue.ReleaseWaiting(ctx, b.caps.Redis, changed)
	}
	return nil
}

// releaseFor is how long after a change of the caps tasks that waited then are released: some
// may be about to return to the queue.
const releaseFor = time.Minute

// current returns the caps. A process that has never read them reads them now, since a call
// without them might exceed one.
func (b *budgets) current(ctx context.Context) ([]budget.Cap, error) {
	b.mu.Lock()
	known, all := b.known, b.all
	b.mu.Unlock()
	if known {
		return all, nil
	}
	if err := b.refresh(ctx); err != nil {
		return nil, &redisError{err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all, nil
}

// refusedBefore returns the refusal of a call that cost no more; nil when there is none today.
func (b *budgets) refusedBefore(plan budget.Plan, most float64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range plan.Caps() {
		if r := b.refused[c.String()]; r != nil && most >= r.Needs && time.Now().Before(r.Until) {
			return r.For(most, time.Now())
		}
	}
	return nil
}

// remember notes a refusal that holds for the rest of the day, so that Redis is not asked again.
func (b *budgets) remember(r *budget.ExceededError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := r.Cap.String()
	last := b.refused[name]
	if r.Final() && (slices.Contains(b.all, r.Cap) || r.Cap == budget.FreeCap) && (last == nil || !time.Now().Before(last.Until) || r.Needs < last.Needs) {
		b.refused[name] = r
	}
}

// refreshCaps reads the caps again.
func (e *Engine) refreshCaps(ctx context.Context) {
	if err := e.budgets.refresh(ctx); err != nil {
		e.cfg.Log.Debug("the caps are not read", "error", clean(err.Error()))
	}
}

// planOf returns the reservation of the next call of a task.
func (e *Engine) planOf(ctx context.Context, j *job) (budget.Plan, error) {
	caps, err := e.budgets.current(ctx)
	if err != nil {
		return budget.Plan{}, err
	}
	return budget.PlanOf(caps, budget.Payer{
		Tenant: j.task.Tenant, Key: j.task.Origin.Key, Bulk: j.task.Lane == tasks.Bulk, Free: j.task.Spend == tasks.SpendFree,
	}), nil
}

// withinBudget returns why the next call of a task may not be sent, as far as this process
// knows, before the task waits for a permit.
func (j *job) withinBudget(ctx context.Context) (budget.Plan, error) {
	if failure := j.overBudget(); failure != nil {
		return budget.Plan{}, failure
	}
	plan, err := j.engine.planOf(ctx, j)
	if err == nil && !plan.Empty() {
		err = j.engine.budgets.refusedBefore(plan, j.most)
	}
	return plan, err
}

// reserve reserves the highest price of a call under the caps of its members, which are the
// same for all, unless a cap has just changed. The reservation is nil when there is no cap.
func (e *Engine) reserve(ctx context.Context, members []*job) (*budget.Reservation, error) {
	most := 0.0
	for _, j := range members {
		most += j.most
	}
	plan, err := e.planOf(ctx, members[0])
	if err != nil || plan.Empty() {
		return nil, err
	}
	if err := e.budgets.refusedBefore(plan, most); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	held, err := budget.Reserve(ctx, e.cfg.Redis, plan, members[0].task.ID+" "+rand.Text(), most)
	if refused, ok := errors.AsType[*budget.ExceededError](err); ok {
		e.budgets.remember(refused)
		return nil, refused
	}
	if err != nil {
		return nil, &redisError{err}
	}
	return held, nil
}

// settle settles a reservation; see budget.Reservation.
func (e *Engine) settle(ctx context.Context, held *budget.Reservation, price float64) {
	if held == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := held.Settle(ctx, price); err != nil {
		e.cfg.Log.Warn("a call stays reserved at its highest price until 00:00 UTC", "error", clean(err.Error()))
	}
}

// budgetPolicy decides on a task whose call might exceed a cap. It waits for the calls under
// way, or for the next day, unless the cap or the price say that it fails.
func budgetPolicy(r *budget.ExceededError) retryDecision {
	if r.Never() || r.Final() && r.Cap.Over == budget.Fail {
		return retryDecision{fail: &tasks.TaskError{Code: tasks.CodeBudgetExceeded, Message: clean(r.Error())}}
	}
	after := max(time.Until(r.Until), 0) + time.Second + jitter(5*time.Second)
	return retryDecision{after: after, why: clean(r.Error()), uncounted: true, budget: r.Final()}
}

// waitForBudget notes that a task waits until the next day, so that a change of the caps lets
// it go on before.
func (e *Engine) waitForBudget(ctx context.Context, t tasks.Task) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := queue.NoteWaiting(ctx, e.cfg.Redis, tasks.Queue(t.Kind, t.Lane), t.ID, time.Now()); err != nil {
		e.cfg.Log.Debug("a task waits for 00:00 UTC whatever becomes of the caps", "task", t.ID, "error", clean(err.Error()))
	}
}
