// Package observe carries events of tasks from the engine to those that do slow work with
// them, such as writing to Redis. The engine never waits.
package observe

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

// Size is the usual bound of a queue: some seconds of a busy worker.
const Size = 4096

// batch is the most items of one delivery.
const batch = 256

// Queue delivers items in order, on one goroutine, in batches of at most 256. An item that
// finds the queue full is dropped and counted.
type Queue[T any] struct {
	deliver func(context.Context, []T)
	log     *slog.Logger
	name    string
	items   chan T
	stop    context.CancelFunc
	done    chan struct{}

	mu      sync.Mutex
	closed  bool
	dropped int
	told    time.Time // when drops were logged last
}

// NewQueue starts a queue of at most size items. The name appears in the log. Close stops
// it. The context of deliver ends when Close gives up.
func NewQueue[T any](name string, size int, log *slog.Logger, deliver func(context.Context, []T)) *Queue[T] {
	ctx, stop := context.WithCancel(context.Background()) //nolint:gosec // Close calls stop
	q := &Queue[T]{deliver: deliver, log: log, name: name, items: make(chan T, size), stop: stop, done: make(chan struct{})}
	go q.run(ctx)
	return q
}

// Add appends an item without waiting. It reports whether there was room.
func (q *Queue[T]) Add(item T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	select {
	case q.items <- item:
		return true
	default:
	}
	q.dropped++
	if time.Since(q.told) >= time.Minute {
		q.told = time.Now()
		q.log.Warn("events of tasks are dropped: their receiver is too slow", "receiver", q.name, "dropped", q.dropped)
	}
	return false
}

// Dropped returns how many items found no room.
func (q *Queue[T]) Dropped() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Close delivers the rest, for at most d. A deliver that ignores its context is left
// behind.
func (q *Queue[T]) Close(d time.Duration) {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.items)
	}
	q.mu.Unlock()
	defer q.stop()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-q.done:
		return
	case <-timer.C:
	}
	q.stop()
	timer.Reset(time.Second)
	select {
	case <-q.done:
	case <-timer.C:
		q.log.Warn("a receiver of events does not end", "receiver", q.name)
	}
}

func (q *Queue[T]) run(ctx context.Context) {
	defer close(q.done)
	for item := range q.items {
		items := append(make([]T, 0, 8), item)
		for open := true; open && len(items) < batch; {
			select {
			case next, ok := <-q.items:
				if open = ok; ok {
					items = append(items, next)
				}
			default:
				open = false
			}
		}
		q.once(ctx, items)
	}
}

// once delivers one batch and discards a panic.
func (q *Queue[T]) once(ctx context.Context, items []T) {
	defer func() {
		if p := recover(); p != nil {
			q.log.Error("a receiver of events panicked", "receiver", q.name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	q.deliver(ctx, items)
}

// Async returns an observer that passes events to o through a queue of its own, and a
// function that delivers the rest and ends the queue. For a nil o it returns nil.
func Async(o tasks.Observer, log *slog.Logger) (async tasks.Observer, stop func()) {
	if o == nil {
		return nil, func() {}
	}
	q := NewQueue("observer", Size, log, func(_ context.Context, events []tasks.Event) {
		for _, e := range events {
			o.Observe(e)
		}
	})
	return func(e tasks.Event) { q.Add(e) }, func() { q.Close(5 * time.Second) }
}
