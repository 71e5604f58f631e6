package batch

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

// enqueuer joins the requests of many goroutines in calls of EnqueueMany.
type enqueuer struct {
	client *tasks.Client
	calls  chan enqueueCall
}

type enqueueCall struct {
	request tasks.Request
	reply   chan tasks.Outcome
}

// enqueueMost is the most requests in one call.
const enqueueMost = 100

func newEnqueuer(c *tasks.Client) *enqueuer {
	return &enqueuer{client: c, calls: make(chan enqueueCall)}
}

// enqueue returns after the task is in the queue or has been found.
func (q *enqueuer) enqueue(ctx context.Context, r tasks.Request) (tasks.Receipt, error) {
	c := enqueueCall{r, make(chan tasks.Outcome, 1)}
	select {
	case q.calls <- c:
	case <-ctx.Done():
		return tasks.Receipt{}, context.Cause(ctx)
	}
	select {
	case o := <-c.reply:
		return o.Receipt, o.Err
	case <-ctx.Done():
		return tasks.Receipt{}, context.Cause(ctx)
	}
}

// run serves the requests until ctx ends.
func (q *enqueuer) run(ctx context.Context) {
	for {
		var calls []enqueueCall
		select {
		case c := <-q.calls:
			calls = append(calls, c)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(calls) < enqueueMost; {
			select {
			case c := <-q.calls:
				calls = append(calls, c)
			default:
				more = false
			}
		}
		requests := make([]tasks.Request, len(calls))
		for i, c := range calls {
			requests[i] = c.request
		}
		for i, o := range q.client.EnqueueMany(ctx, requests) {
			calls[i].reply <- o
		}
	}
}

// watcher waits for the ends of many tasks and asks Redis for them together.
type watcher struct {
	client  *tasks.Client
	mu      sync.Mutex
	waiting []*watched // oldest first
	from    int        // where the next look beyond the oldest begins
}

type watched struct {
	receipt tasks.Receipt
	missed  time.Time // since when Redis does not know the task; zero when it does
	ended   chan bool // true when the task has ended, false when Redis lost it
}

const (
	watchOldest = 64 // tasks that each look includes: those end first
	watchOthers = 32 // further tasks in each look
	watchFirst  = 50 * time.Millisecond
	watchLast   = time.Second
	// lostAfter is how long Redis must not know a task before it is taken for lost.
	lostAfter = 3 * time.Second
)

// wait returns after a task has ended. It returns false when Redis lost the task.
func (w *watcher) wait(ctx context.Context, r tasks.Receipt) (ended bool, err error) {
	one := &watched{receipt: r, ended: make(chan bool, 1)}
	w.mu.Lock()
	w.waiting = append(w.waiting, one)
	w.mu.Unlock()
	select {
	case ended := <-one.ended:
		return ended, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// oldest returns the id of the task that has waited longest, or "".
func (w *watcher) oldest() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return ""
	}
	return w.waiting[0].receipt.ID
}

// receipts returns the tasks that are waited for.
func (w *watcher) receipts() []tasks.Receipt {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]tasks.Receipt, len(w.waiting))
	for i, one := range w.waiting {
		all[i] = one.receipt
	}
	return all
}

// run looks until ctx ends: often while tasks end, rarely while none does.
func (w *watcher) run(ctx context.Context) {
	pause := watchFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		some := w.next()
		if len(some) == 0 {
			pause = watchFirst
			continue
		}
		receipts := make([]tasks.Receipt, len(some))
		for i, one := range some {
			receipts[i] = one.receipt
		}
		states, err := w.client.States(ctx, receipts)
		if err != nil {
			pause = watchLast
			continue
		}
		switch ended := w.settle(some, states); {
		case ended == 0:
			pause = min(pause*3/2, watchLast)
		case ended > len(some)/8:
			pause = watchFirst
		}
	}
}

// next returns the tasks to look at: the oldest, and some of the others in turn.
func (w *watcher) next() []*watched {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.waiting), watchOldest)
	some := slices.Clone(w.waiting[:n])
	others := w.waiting[n:]
	if len(others) == 0 {
		return some
	}
	if w.from >= len(others) {
		w.from = 0
	}
	to := min(w.from+watchOthers, len(others))
	some = append(some, others[w.from:to]...)
	w.from = to
	return some
}

// settle tells the waiting goroutines which tasks have ended, and returns how many.
func (w *watcher) settle(some []*watched, states []tasks.TaskState) (ended int) {
	gone := map[*watched]bool{}
	for i, one := range some {
		switch s := states[i]; {
		case s.Ended:
			one.ended <- true
			gone[one] = true
			ended++
		case s.Queued:
			one.missed = time.Time{}
		case one.missed.IsZero():
			one.missed = time.Now()
		case time.Since(one.missed) >= lostAfter:
			one.ended <- false
			gone[one] = true
		}
	}
	if len(gone) > 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.waiting = slices.DeleteFunc(w.waiting, func(one *watched) bool { return gone[one] })
	}
	return ended
}
