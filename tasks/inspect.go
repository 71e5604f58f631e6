package tasks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// Info is the state of a task. Cancelled means that a person has cancelled the task,
// which ends before its next call.
type Info struct {
	Task
	State     string    // pending, scheduled, active, retry or archived; after the end completed or failed
	Attempts  int       // counted calls started so far
	LastError string    // why the task is retried
	NextRun   time.Time // when the task is retried or starts; zero when it is due
	Result    *Result   // nil until the task has ended
}

// getTries is how often Get looks for a task that ends while it looks.
const getTries = 3

// Get finds a task in Redis or by its result. It returns ErrNotFound if neither has it.
// What it reads from Redis is of one moment.
func (c *Client) Get(ctx context.Context, id string) (Info, error) {
	if c.invalid != nil {
		return Info{}, c.invalid
	}
	for try := 1; ; try++ {
		info, err := c.getResult(ctx, id)
		if !errors.Is(err, ErrNotFound) {
			return info, err
		}
		info, ended, err := c.getQueued(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound) && try == 1: // it may have ended between the two reads
		case err != nil || !ended || try == getTries:
			return info, err
		}
	}
}

// getResult finds a task that has ended.
func (c *Client) getResult(ctx context.Context, id string) (Info, error) {
	r, err := c.Result(ctx, id)
	if err != nil {
		return Info{}, err
	}
	return Info{
		Task:  Task{ID: r.ID, Tenant: c.cfg.Tenant, Kind: r.Kind, Model: r.Model, CreatedAt: r.CreatedAt, Metadata: r.Metadata},
		State: string(r.Status), Attempts: r.Attempts, Result: r,
	}, nil
}

// getQueued finds a task that is queued or active. ended means that its result is written.
func (c *Client) getQueued(ctx context.Context, id string) (info Info, ended bool, err error) {
	name, err := c.findQueue(ctx, id)
	if errors.Is(err, ErrNotFound) {
		info, err := c.getRecord(ctx, id)
		return info, false, err
	}
	if err != nil {
		return Info{}, false, err
	}
	found, err := queue.Inspect(ctx, c.cfg.Redis, []queue.Ref{{Queue: name, ID: id}}, taskstate.LiveKey, taskstate.CounterFields...)
	if err != nil {
		return Info{}, false, fmt.Errorf("look for %s: %w", id, err)
	}
	q := found[0]
	info = describe(q)
	if q.State == "" || q.Tombstone || !c.owns(info) {
		return Info{}, false, ErrNotFound
	}
	return info, taskstate.CountersOf(q.Record).Ended, nil
}

// owns reports whether a queued task is the client's tenant's. All tenants share the
// queues. A damaged task has no tenant and belongs to the default one.
func (c *Client) owns(info Info) bool {
	return cmp.Or(info.Tenant, objects.DefaultTenant) == c.cfg.Tenant
}

// getRecord finds a task that Redis has lost. The reconciler will put it back from its
// pending record.
func (c *Client) getRecord(ctx context.Context, id string) (Info, error) {
	info := Info{State: "pending"}
	if c.cfg.Store == nil {
		return Info{}, ErrNotFound
	}
	document, err := readRecord(ctx, c.cfg.Store, c.cfg.Tenant, id)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return Info{}, ErrNotFound
	}
	if err == nil {
		if err = json.Unmarshal(document, &info.Task); err != nil {
			err = fmt.Errorf("decode the pending record of %s: %w: %w", id, errDocument, err)
		}
	}
	return info, err
}

// describe returns the state of a task by its queue and its live record.
func describe(q queue.Inspected) Info {
	info := Info{State: q.State, LastError: q.LastError, NextRun: q.NextRun}
	info.Task, _, _ = DecodeMessage(q.Message)
	info.ID = q.ID
	counts := taskstate.CountersOf(q.Record)
	info.Attempts = counts.Attempts - counts.Unpaid
	info.Cancelled = info.Cancelled || counts.Cancelled
	return info
}

// Queues returns the names of all asynq queues, interactive ones first.
func Queues() []string {
	var names []string
	for _, l := range []Lane{Interactive, Bulk} {
		for _, s := range Specs {
			names = append(names, Queue(s.Kind, l))
		}
	}
	return names
}

// findQueue searches all queues for a task in one round trip. A task stays in its queue, so for
// one that was found before it looks there first: pollers ask for the same tasks.
func (c *Client) findQueue(ctx context.Context, id string) (string, error) {
	if name := c.queues.of(id); name != "" {
		if found, err := queue.Locate(ctx, c.cfg.Redis, []string{name}, id); err != nil || found != "" {
			return found, err
		}
	}
	name, err := queue.Locate(ctx, c.cfg.Redis, Queues(), id)
	if err == nil && name == "" {
		err = ErrNotFound
	}
	if err == nil {
		c.queues.put(id, name)
	}
	return name, err
}

// foundQueues remembers the queues of tasks.
type foundQueues struct {
	mu    sync.Mutex
	names map[string]string // by id
}

// mostFoundQueues bounds the memory: some hundred kilobytes.
const mostFoundQueues = 2000

func (f *foundQueues) of(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names[id]
}

func (f *foundQueues) put(id, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names == nil || len(f.names) >= mostFoundQueues {
		f.names = map[string]string{}
	}
	f.names[id] = name
}

// Result returns a task's result, or ErrNotFound until the task has ended. Without a
// Store, the result is readable for ten minutes after the end and only up to
// 64 KiB. Otherwise the error is a *ResultInStoreError.
func (c *Client) Result(ctx context.Context, id string) (*Result, error) {
	if c.invalid != nil {
		return nil, c.invalid
	}
	if c.cfg.Store != nil {
		return c.storedResult(ctx, id)
	}
	return c.publishedResult(ctx, id)
}

// publishedResult reads the result that a worker published in Redis.
func (c *Client) publishedResult(ctx context.Context, id string) (*Result, error) {
	state, err := taskstate.ReadState(ctx, c.cfg.Redis, id)()
	if err != nil {
		return nil, fmt.Errorf("look for the result of %s: %w", id, err)
	}
	document, ok := state.Result, state.Result != "" // written by a worker of an earlier version
	if !state.Ended && !ok {
		return nil, ErrNotFound
	}
	if !ok {
		document, err = c.cfg.Redis.Get(ctx, taskstate.PublishedKey(id)).Result()
		if errors.Is(err, redis.Nil) {
			return nil, &ResultInStoreError{ID: id, Status: statusOf(state.Status)}
		}
		if err != nil {
			return nil, fmt.Errorf("look for the result of %s: %w", id, err)
		}
	}
	var r Result
	if err := json.Unmarshal([]byte(document), &r); err != nil {
		return nil, fmt.Errorf("decode the result of %s: %w", id, err)
	}
	// The key may belong to another task that only the bucket knew.
	if state.Digest != "" && r.Digest != "" && state.Digest != r.Digest {
		return nil, fmt.Errorf("result of %s: %w", id, ErrIdempotencyMismatch)
	}
	return &r, nil
}

// statusOf reads the status in a live record. Earlier versions wrote 1.
func statusOf(ended string) Status {
	if s := Status(ended); s == Completed || s == Failed {
		return s
	}
	return ""
}

func (c *Client) storedResult(ctx context.Context, id string) (*Result, error) {
	return StoredResult(ctx, c.cfg.Store, c.cfg.Tenant, id)
}

// StoredResult reads a task's result from the bucket. It returns ErrNotFound if there is
// none.
func StoredResult(ctx context.Context, s storage.Store, tenant, id string) (*Result, error) {
	var r Result
	err := readJSON(ctx, s, objects.ResultKey(tenant, id), &r)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// ListFilter selects tasks for Client.List.
type ListFilter struct {
	Kind  Kind   // empty means all
	Lane  Lane   // empty means both
	State string // pending, scheduled, active, retry or archived; empty means all
	Limit int    // maximum number of tasks; 0 means 100
}

// Position is a place in the list of live tasks; the zero value is its beginning. One call
// shows each task once, in its latest state. Tasks move through the list between two calls,
// so that a reader of many pages may miss one or see one twice.
type Position struct {
	Section int // index of a queue and state
	Offset  int // tasks of the section before it
}

// liveStates are the states of tasks that have not ended, in the order of a list.
var liveStates = []string{"active", "pending", "retry", "scheduled", "archived"}

// List returns tasks from Redis that have not ended. Ended tasks are in the bucket.
func (c *Client) List(ctx context.Context, f ListFilter) ([]Info, error) {
	list, _, err := c.ListFrom(ctx, f, Position{}, nil)
	return list, err
}

// listPage is how many tasks are read at once, and listMost how many are looked at for one
// call.
const (
	listPage = 100
	listMost = 2000
)

// ListFrom is a List that begins at a position and keeps the tasks that match; a nil func
// keeps all. It returns the position of the next call, whose Section is negative at the
// end. A call looks at a bounded number of tasks, so it may return fewer than the limit,
// even none, before the end.
func (c *Client) ListFrom(ctx context.Context, f ListFilter, at Position, match func(Info) bool) ([]Info, Position, error) {
	end := Position{Section: -1}
	if c.invalid != nil {
		return nil, end, c.invalid
	}
	if f.State != "" && !slices.Contains(liveStates, f.State) {
		return nil, end, problem("state", "%s is none of %s", quote(f.State), strings.Join(liveStates, ", "))
	}
	l := listing{c: c, f: f, match: match, limit: cmp.Or(f.Limit, 100)}
	queues := Queues()
	for at.Section < len(queues)*len(liveStates) {
		number := at.Section / len(liveStates)
		if matches(queues[number], f) {
			next, full, err := l.read(ctx, queues[number], at)
			if err != nil {
				return nil, end, err
			}
			if full {
				return l.found, next, nil
			}
		}
		at = Position{Section: (number + 1) * len(liveStates)}
	}
	return l.found, end, nil
}

// listing is one call of ListFrom.
type listing struct {
	c     *Client
	f     ListFilter
	match func(Info) bool
	limit int
	found []Info
	seen  int // tasks looked at
}

// full reports whether the call has found or looked at as many tasks as it may.
func (l *listing) full() bool { return len(l.found) >= l.limit || l.seen >= listMost }

// read lists the tasks of one queue from a position of it on. It reads their ids in one
// step, so that a task that changes its state is neither missed nor found twice. It returns
// the position of the next task and true when the listing is full before the end.
func (l *listing) read(ctx context.Context, name string, at Position) (next Position, full bool, err error) {
	if l.full() {
		return at, true, nil
	}
	states := liveStates[at.Section%len(liveStates):]
	sections, err := queue.IDs(ctx, l.c.cfg.Redis, name, states, at.Offset, listMost)
	if err != nil {
		return at, false, err
	}
	for i, ids := range sections {
		if i > 0 {
			at = Position{Section: at.Section + 1}
		}
		if l.f.State != "" && l.f.State != states[i] {
			continue
		}
		for page := range slices.Chunk(ids, listPage) {
			n, err := l.add(ctx, name, page)
			if at.Offset += n; err != nil {
				return at, false, err
			}
			if l.full() {
				return at, true, nil
			}
		}
	}
	return at, false, nil
}

// add looks at a page of tasks until the listing is full, and returns how many it has looked
// at.
func (l *listing) add(ctx context.Context, name string, ids []string) (n int, err error) {
	refs := make([]queue.Ref, len(ids))
	for i, id := range ids {
		refs[i] = queue.Ref{Queue: name, ID: id}
	}
	found, err := queue.Inspect(ctx, l.c.cfg.Redis, refs, taskstate.LiveKey, taskstate.CounterFields...)
	if err != nil {
		return 0, err
	}
	for _, q := range found {
		if l.full() {
			return n, nil
		}
		n++
		l.seen++
		info := describe(q)
		over := q.State == "" || q.Tombstone || taskstate.CountersOf(q.Record).Ended
		if !over && l.c.owns(info) && (l.f.State == "" || l.f.State == info.State) && (l.match == nil || l.match(info)) {
			l.found = append(l.found, info)
		}
	}
	return n, nil
}

func matches(queue string, f ListFilter) bool {
	for _, s := range Specs {
		for _, l := range []Lane{Interactive, Bulk} {
			if Queue(s.Kind, l) == queue {
				return (f.Kind == "" || f.Kind == s.Kind) && (f.Lane == "" || f.Lane == l)
			}
		}
	}
	return false
}

// Cancel ends a task within seconds while a worker runs. A waiting task ends at once, a
// running one before its next call. It returns ErrEnded if the task has a result.
func (c *Client) Cancel(ctx context.Context, id string) error {
	info, err := c.Get(ctx, id)
	if errors.As(err, new(*ResultInStoreError)) || err == nil && info.Result != nil {
		return ErrEnded
	}
	if err != nil {
		return err
	}
	if info.Pending && c.cfg.Store != nil { // the cancellation survives the loss of Redis
		t := info.Task
		t.Cancelled = true
		document, err := json.Marshal(t)
		if err == nil {
			err = c.cfg.Store.Put(ctx, objects.PendingKey(t.Tenant, id), bytes.NewReader(document), "application/json")
		}
		if err != nil {
			return fmt.Errorf("cancel %s: %w", id, err)
		}
	}
	deadline := info.Deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(taskstate.LiveTTL)
	}
	marked, err := taskstate.Cancel(ctx, c.cfg.Redis, id, secondsTo(deadline.Add(taskstate.LiveTTL)))
	switch {
	case err != nil:
		return fmt.Errorf("cancel %s: %w", id, err)
	case !marked:
		return ErrEnded
	}
	if err := c.cfg.Redis.ZAdd(ctx, taskstate.CancelledKey, redis.Z{Score: float64(time.Now().Unix()), Member: id}).Err(); err != nil {
		return fmt.Errorf("cancel %s: %w", id, err)
	}
	return nil
}
