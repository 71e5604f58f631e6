package maintenance

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// Presence is this process' view of the fleet's heartbeats.
type Presence interface {
	// Settled reports whether the stabilisation period is over: Redis has worked long
	// enough for every living worker to have sent a heartbeat.
	Settled() bool
	// SinceBreak returns when Redis last came back; zero when it was never away.
	SinceBreak() time.Time
	// Beat sends this process' heartbeat and runs failover detection.
	Beat(ctx context.Context)
}

// Config holds the dependencies of the jobs. The caller closes them.
type Config struct {
	Redis    redis.UniversalClient
	Store    storage.Store
	Gate     *gate.Gate
	Presence Presence
	Log      *slog.Logger
	// End writes the failure document of a task without an owner, unless the task has a
	// result, and removes the records of an unfinished task. raw holds a message that could
	// not be decoded, else nil.
	End func(ctx context.Context, t tasks.Task, raw []byte, f *tasks.TaskError) error
	// Cancelled and Expired are the failures of cancelled and expired tasks.
	Cancelled *tasks.TaskError
	Expired   func(tasks.Task) *tasks.TaskError
	// Overdue is the failure of a task of a newer version that expired before any worker
	// could decode it.
	Overdue func(tasks.Task, error) *tasks.TaskError
}

// fleet implements the jobs and keeps their state between runs.
type fleet struct {
	Config
	calls    map[string]int    // the gate's call count at the last re-admission, by queue and model
	passes   map[string]*pass  // of countModels, by queue
	cursors  map[string]uint64 // of the scans of deferred tasks, by key
	unlisted queue.UnlistedScan
	empty    atomic.Int64 // when the queues were last seen to be empty (Unix nanoseconds); 0 when they had tasks

	turn   chan struct{} // a lock with support for contexts, for the fields below
	watch  queue.Watch
	queues map[string]queue.Holds // what look saw last
	seen   time.Time              // time of that look
	some   atomic.Bool            // that look found a task
}

// look returns the content of the queues, as of at most maxAge ago.
func (f *fleet) look(ctx context.Context, maxAge time.Duration) (map[string]queue.Holds, error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if maxAge > 0 && time.Since(f.seen) <= maxAge && f.seen.After(f.Presence.SinceBreak()) {
		return f.queues, nil
	}
	began := time.Now()
	queues, err := f.watch.Look(ctx, f.Redis, tasks.Queues())
	if err != nil {
		return nil, err
	}
	f.queues, f.seen = queues, began
	f.some.Store(len(queues) > 0)
	return queues, nil
}

// those returns the names of the queues that a predicate selects, in their usual order.
func those(queues map[string]queue.Holds, selects func(queue.Holds) bool) []string {
	var names []string
	for _, name := range tasks.Queues() {
		if selects(queues[name]) {
			names = append(names, name)
		}
	}
	return names
}

// recent is the age of a look that jobs without hurry may use: that of the job before.
const recent = 2 * dueEvery

const (
	dueEvery     = time.Second
	readmitEvery = 250 * time.Millisecond
	leasesEvery  = 3 * time.Second
	expiredEvery = 10 * time.Second
	censusEvery  = 10 * time.Second
	listsEvery   = 30 * time.Second
	scanPause    = 3 * time.Second // between two pages of one scan
	minutely     = time.Minute
)

// Jobs returns the table of all housekeeping jobs.
func Jobs(c Config) []Job {
	f := &fleet{Config: c, calls: map[string]int{}, passes: map[string]*pass{}, cursors: map[string]uint64{}, turn: make(chan struct{}, 1)}
	table := []Job{
		{Name: "due", Every: dueEvery, Run: f.moveDue},
		{Name: "leases", Every: leasesEvery, Run: f.returnLeases},
		{Name: "cancelled", Every: leasesEvery, Run: f.endCancelled},
		{Name: "expired", Every: expiredEvery, Run: f.endExpired},
		{Name: "deferred", Every: readmitEvery, Run: f.readmit},
		{Name: "models", Every: censusEvery, Run: f.countModels},
		{Name: "lists", Every: listsEvery, Run: f.repairLists},
		{Name: "unlisted", Every: minutely, Run: f.requeueUnlisted},
		{Name: "stranded", Every: minutely, Run: f.returnStranded, Since: c.Presence.SinceBreak},
		{Name: "archived", Every: minutely, Run: f.endArchived},
		{Name: "records", Every: minutely, Run: f.reconcile, Since: c.Presence.SinceBreak},
		{Name: "servers", Every: minutely, Run: f.forgetServers},
	}
	for i, j := range table {
		switch j.Name {
		case "due", "records", "servers", "unlisted": // these have work also when no task is queued
		default:
			table[i].Run = f.unlessEmpty(j.Run)
		}
	}
	return table
}

// moveDue moves due tasks into their queues and announces queues with pending tasks, so
// that idle workers ask for them. While Redis holds no task it costs one command.
func (f *fleet) moveDue(ctx context.Context) (next time.Duration, err error) {
	began := time.Now()
	empty, err := f.nothing(ctx)
	if empty {
		f.empty.Store(began.UnixNano())
		return 0, nil
	}
	f.empty.Store(0)
	if err != nil {
		return 0, err
	}
	queues, err := f.look(ctx, 0)
	if err != nil {
		return 0, err
	}
	due, err := queue.MoveDue(ctx, f.Redis, queues)
	if due.IsZero() {
		return 0, err
	}
	return min(max(time.Until(due), time.Millisecond), dueEvery), err
}

// nothing reports whether Redis holds no task. It asks only if the last look found none.
func (f *fleet) nothing(ctx context.Context) (bool, error) {
	if f.some.Load() {
		return false, nil
	}
	return queue.Empty(ctx, f.Redis, tasks.Queues(), taskstate.CancelledKey)
}

// errNoTasks means that a job was skipped.
var errNoTasks = errors.New("no task is queued")

// unlessEmpty skips a job while the last look of moveDue found no task.
func (f *fleet) unlessEmpty(run func(context.Context) (time.Duration, error)) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		seen := f.empty.Load()
		at := time.Unix(0, seen)
		if seen > 0 && time.Since(at) < 3*dueEvery && at.After(f.Presence.SinceBreak()) {
			return 0, errNoTasks
		}
		return run(ctx)
	}
}
