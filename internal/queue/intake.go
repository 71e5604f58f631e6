package queue

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	fallbackEvery = time.Second     // an empty queue is asked again this often without a subscription
	surelyEvery   = 5 * time.Minute // and with one; the leader announces again what still waits
	failedPause   = time.Second     // a queue whose take failed is left alone for so long
	startWithin   = 10 * time.Second
	bulkRatio     = 5 // bulk queues are polled at a multiple of the interval
)

// Slots is how many tasks of one queue a process runs at once.
type Slots struct {
	Queue string // "text:interactive"
	Bulk  bool   // served after the interactive queues
	Slots int
}

// Intake decides from which queue an asynq server takes next. It enforces the slots of each
// queue, and lets a take wait in this process while all queues are empty or full. asynq
// itself polls: ten servers at 50 ms send 450 commands a second for nothing.
//
// asynq asks queue by queue and reads the task's queue from its message. So one server with
// a list of queues serves all, whichever queue the take is directed to.
//
// A take that has waited is answered as from an empty queue and never sent: its command
// holds the end of the lease from before the wait. asynq asks anew at once.
type Intake struct {
	log   *slog.Logger
	poll  time.Duration // zero: wait for announcements
	me    uint64        // random, for share
	doubt func() bool   // Redis is away or refuses, so an empty answer proves nothing; may be nil

	emptied chan string // announcements that this process worked off

	mu          sync.Mutex
	queues      []*intakeQueue
	byName      map[string]*intakeQueue
	changed     chan struct{} // closed and replaced when a wait may be over
	turn        int           // counts choices
	subscribed  bool
	subscribers int64
	stopped     bool
}

// intakeQueue holds this process' knowledge of one queue.
type intakeQueue struct {
	Slots
	used      int                  // tasks that a handler runs
	starting  map[string]time.Time // tasks taken that have not reached a handler, by id
	seq       int                  // counts announcements
	emptyAt   int                  // seq before the last take that found nothing
	emptyTime time.Time            // of that take
	failed    time.Time            // of the last take that failed or proved nothing
	waker     string               // id of the announcement that the last take followed
	worked    bool                 // a task came since
	emptied   string               // id of the last announcement that another process worked off
}

// NewIntake returns an Intake. Client gives the server's client, Run listens for
// announcements. With poll above zero it polls the queues at this interval instead, for a
// Redis without pub/sub.
func NewIntake(slots []Slots, poll time.Duration, log *slog.Logger) *Intake {
	in := &Intake{log: log, poll: poll, me: rand.Uint64(), byName: map[string]*intakeQueue{}, changed: make(chan struct{}), emptied: make(chan string, 16)}
	for _, s := range slots {
		q := &intakeQueue{Slots: s, seq: 1, starting: map[string]time.Time{}}
		in.queues = append(in.queues, q)
		in.byName[s.Queue] = q
	}
	return in
}

// Client returns the client for the asynq server.
func (in *Intake) Client(r redis.UniversalClient) redis.UniversalClient {
	closed := redis.NewClient(&redis.Options{Addr: "127.0.0.1:0"}) // an address: a name would be resolved
	_ = closed.Close()                                             // it has no connection
	return &takingClient{r, in, closed}
}

// Concurrency returns the sum of all slots, as the asynq server needs it.
func (in *Intake) Concurrency() int {
	n := 0
	for _, q := range in.queues {
		n += q.Slots.Slots
	}
	return n
}

// Queues returns all queues with their slots as weights. asynq's heartbeat shows them, see
// Workers; they have no other effect.
func (in *Intake) Queues() map[string]int {
	slots := map[string]int{}
	for _, q := range in.queues {
		slots[q.Queue] = q.Slots.Slots
	}
	return slots
}

// Stop ends the waits of takes. All later takes are answered as from empty queues. Call it
// before the server's Shutdown, which waits for the take that runs.
func (in *Intake) Stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopped = true
	in.wake()
}

// take takes a task from the next queue. It waits while there is none.
func (in *Intake) take(ctx context.Context, from func(queue string) *redis.Cmd) *redis.Cmd {
	q, seq := in.next(ctx)
	if q == nil {
		return nothing(ctx)
	}
	cmd := from(q.Queue)
	in.record(q, seq, cmd)
	return cmd
}

// next returns the queue to take from, and its seq. While no queue has both tasks and a
// free slot, it waits and then returns nil.
func (in *Intake) next(ctx context.Context) (*intakeQueue, int) {
	in.mu.Lock()
	if !in.stopped {
		if q := in.choose(time.Now()); q != nil {
			defer in.mu.Unlock()
			return q, q.seq
		}
	}
	changed, stopped, longest := in.changed, in.stopped, fallbackEvery
	if in.poll > 0 {
		longest = min(in.poll, fallbackEvery)
	}
	in.mu.Unlock()
	if stopped {
		return nil, 0
	}
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer.C:
	}
	return nil, 0
}

// choose returns a queue that may have a task and has a slot for it; nil when there is
// none. Interactive queues come first. Every fourth choice begins with the bulk ones, so
// that neither lane starves the other of the server's only taker.
func (in *Intake) choose(now time.Time) *intakeQueue {
	n := len(in.queues)
	bulkFirst := in.turn%4 == 3
	for _, bulk := range []bool{bulkFirst, !bulkFirst} {
		for i := range n {
			q := in.queues[(in.turn+i)%n]
			if q.Bulk == bulk && now.Sub(q.failed) >= failedPause && !q.empty(now, in.recheck(q)) && q.free(now) {
				in.turn++
				return q
			}
		}
	}
	return nil
}

// recheck returns how long an empty answer of a queue stands without an announcement.
func (in *Intake) recheck(q *intakeQueue) time.Duration {
	switch {
	case in.poll > 0 && q.Bulk:
		return bulkRatio * in.poll
	case in.poll > 0:
		return in.poll
	case in.subscribed && (in.doubt == nil || !in.doubt()):
		return surelyEvery
	}
	return fallbackEvery
}

// record notes the outcome of a take.
func (in *Intake) record(q *intakeQueue, seq int, cmd *redis.Cmd) {
	message, err := cmd.Text()
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case errors.Is(err, redis.Nil):
		if in.doubt != nil && in.doubt() {
			q.failed = time.Now()
			return
		}
		q.emptyAt, q.emptyTime = seq, time.Now()
		if q.waker != "" && q.worked && in.subscribers > smallFleet {
			select {
			case in.emptied <- q.Queue + " " + q.waker:
			default: // the other processes ask needlessly
			}
		}
		q.waker, q.worked = "", false
	case err == nil:
		q.worked = true
		if id := messageID([]byte(message)); id != "" {
			q.starting[id] = time.Now()
		}
	case !redis.HasErrorPrefix(err, "NOSCRIPT"):
		q.failed = time.Now()
	}
}

// occupy gives a task its slot until the returned func is called. The handler keeps the
// slot also when asynq no longer waits for it.
func (in *Intake) occupy(queue, id string) (leave func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	q := in.byName[queue]
	if q == nil {
		return func() {}
	}
	delete(q.starting, id)
	q.used++
	return func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		if q.used--; q.used+len(q.starting) == q.Slots.Slots-1 {
			in.wake()
		}
	}
}

// wake ends all waits. The caller holds the mutex.
func (in *Intake) wake() {
	close(in.changed)
	in.changed = make(chan struct{})
}

// free reports whether the queue has a free slot. A task that never reaches a handler, such
// as a damaged message, keeps its slot for startWithin.
func (q *intakeQueue) free(now time.Time) bool {
	for id, at := range q.starting {
		if now.Sub(at) > startWithin {
			delete(q.starting, id)
		}
	}
	return q.used+len(q.starting) < q.Slots.Slots
}

// empty reports whether the queue is known to be empty.
func (q *intakeQueue) empty(now time.Time, recheck time.Duration) bool {
	return q.emptyAt == q.seq && now.Sub(q.emptyTime) < recheck
}
