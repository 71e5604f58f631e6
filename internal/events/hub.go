package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

const (
	markFor     = time.Minute      // how long the mark of a followed task holds
	markEvery   = 20 * time.Second // how often marks are renewed, in one command for 500 tasks
	verifyEvery = 15 * time.Second // how often some followed tasks are looked up, in case an event was lost
	verifySome  = 64               // how many
	pingEvery   = 30 * time.Second // of silence in the subscription
	mostBuffer  = 256              // events that a follower has not read; beyond it, they are read from the stream
)

// MostFollowers is the bound of followers of one process.
const MostFollowers = 10_000

var (
	// ErrEnded: the task has ended, and its last event was read before.
	ErrEnded = errors.New("the task has ended, and all its events have been read")
	// ErrTooMany: the process has MostFollowers followers.
	ErrTooMany = errors.New("too many followers")
)

// Snapshot returns the state of a task as an event: Queued, Waiting, Running or Done. Its
// error ends the follower before it begins.
type Snapshot func(ctx context.Context) (Event, error)

// Hub serves the followers of one process. It has one subscription, however many followers
// there are. Followers work while Run runs.
type Hub struct {
	redis redis.UniversalClient
	log   *slog.Logger

	mu     sync.Mutex
	topics map[string]*topic
	count  int // of followers
}

// topic is a task with followers in this process.
type topic struct {
	followers map[*Follower]bool
	snapshot  Snapshot
	verified  time.Time
}

// NewHub returns a hub; Run starts it.
func NewHub(r redis.UniversalClient, log *slog.Logger) *Hub {
	return &Hub{redis: r, log: log, topics: map[string]*topic{}}
}

// Run serves followers until ctx ends, and returns nil.
func (h *Hub) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { h.keepMarked(ctx) })
	running.Go(func() { h.verify(ctx) })
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, 10*time.Second) {
		begun := time.Now()
		err := h.listen(ctx)
		if ctx.Err() != nil {
			break
		}
		h.log.Debug("subscription to events of tasks broke", "error", err)
		if time.Since(begun) > time.Minute {
			pause = time.Second
		}
		h.rereadAll()
		sleep(ctx, pause)
	}
	return nil
}

// listen passes published events on until the subscription breaks.
func (h *Hub) listen(ctx context.Context) error {
	sub := h.redis.Subscribe(ctx, Channel)
	defer func() { _ = sub.Close() }()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	silent := false
	for {
		message, err := sub.ReceiveTimeout(ctx, pingEvery)
		timeout, _ := err.(interface{ Timeout() bool }) //nolint:errorlint // of the connection itself
		switch {
		case err != nil && timeout != nil && timeout.Timeout() && !silent:
			silent = true
			if err := sub.Ping(ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		silent = false
		switch m := message.(type) {
		case *redis.Subscription:
			h.rereadAll() // for events published before the subscription
		case *redis.Message:
			task, rest, _ := strings.Cut(m.Payload, " ")
			number, data, _ := strings.Cut(rest, " ")
			h.pass(task, number, data)
		}
	}
}

// pass hands an event to the followers of its task.
func (h *Hub) pass(task, number, data string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[task]
	if t == nil {
		return
	}
	e, ok := decode(number, data)
	for f := range t.followers {
		if ok && len(f.buffer) < mostBuffer {
			f.buffer = append(f.buffer, e)
		} else {
			f.reread = true
		}
		f.signal()
	}
}

// rereadAll makes all followers read their streams, since events may have been missed.
func (h *Hub) rereadAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.topics {
		for f := range t.followers {
			f.reread = true
			f.signal()
		}
	}
}

// keepMarked renews the marks of the followed tasks.
func (h *Hub) keepMarked(ctx context.Context) {
	for sleep(ctx, markEvery) {
		h.mu.Lock()
		ids := slices.Collect(maps.Keys(h.topics))
		h.mu.Unlock()
		if len(ids) == 0 {
			continue
		}
		if err := h.mark(ctx, ids); err != nil {
			h.log.Debug("followed tasks not marked", "error", err)
		}
	}
}

// mark tells the workers that tasks are followed.
func (h *Hub) mark(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now := time.Now()
	pipe := h.redis.Pipeline()
	for some := range slices.Chunk(ids, perCheck) {
		marks := make([]redis.Z, len(some))
		for i, id := range some {
			marks[i] = redis.Z{Score: float64(now.Add(markFor).Unix()), Member: id}
		}
		pipe.ZAdd(ctx, FollowedKey, marks...)
	}
	pipe.ZRemRangeByScore(ctx, FollowedKey, "-inf", fmt.Sprintf("(%d", now.Unix()))
	pipe.Expire(ctx, FollowedKey, 2*markFor)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("mark followed tasks: %w", err)
	}
	return nil
}

// verify looks up some followed tasks now and then. A worker that dies right after it
// committed a result writes no event.
func (h *Hub) verify(ctx context.Context) {
	for sleep(ctx, verifyEvery) {
		for id, snapshot := range h.longestUnverified() {
			asked, cancel := context.WithTimeout(ctx, 5*time.Second)
			if e, err := snapshot(asked); err == nil && e.Type == Done {
				if err := appendTo(asked, h.redis, id, false, e); err != nil {
					h.log.Debug("end of a task not written", "error", err)
				}
			}
			cancel()
		}
	}
}

// longestUnverified returns the snapshots of the tasks that were not looked up for the
// longest time.
func (h *Hub) longestUnverified() map[string]Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := slices.SortedFunc(maps.Keys(h.topics), func(a, b string) int {
		return h.topics[a].verified.Compare(h.topics[b].verified)
	})
	some := map[string]Snapshot{}
	for _, id := range ids[:min(len(ids), verifySome)] {
		t := h.topics[id]
		if time.Since(t.verified) >= verifyEvery {
			t.verified = time.Now()
			some[id] = t.snapshot
		}
	}
	return some
}

// Follower reads the events of one task. It is used by one goroutine.
type Follower struct {
	hub  *Hub
	task string
	last int // number of the last event that Next returned
	over bool
	wake chan struct{}

	// Guarded by the hub's lock.
	buffer []Event
	reread bool
}

// Follow begins to read a task's events after a number; 0 means from the beginning. A stream
// without events gets the snapshot as the first. It returns ErrEnded if nothing can follow,
// ErrTooMany, or the error of snapshot. The caller closes the follower.
func (h *Hub) Follow(ctx context.Context, task string, after int, snapshot Snapshot) (*Follower, error) {
	f := &Follower{hub: h, task: task, last: after, wake: make(chan struct{}, 1)}
	if err := h.join(f, snapshot); err != nil {
		return nil, err
	}
	if err := f.begin(ctx, snapshot); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (h *Hub) join(f *Follower, snapshot Snapshot) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count == MostFollowers {
		return ErrTooMany
	}
	h.count++
	t := h.topics[f.task]
	if t == nil {
		t = &topic{followers: map[*Follower]bool{}, snapshot: snapshot, verified: time.Now()}
		h.topics[f.task] = t
	}
	t.followers[f] = true
	return nil
}

// begin marks the task and then looks at its state. A worker stores the result and then
// looks for the mark, so one of the two sees the other.
func (f *Follower) begin(ctx context.Context, snapshot Snapshot) error {
	if err := f.hub.mark(ctx, []string{f.task}); err != nil {
		return err
	}
	now, err := snapshot(ctx)
	if err != nil {
		return err
	}
	events, err := read(ctx, f.hub.redis, f.task, 0)
	if err != nil {
		return err
	}
	last := Event{}
	if len(events) > 0 {
		last = events[len(events)-1]
	}
	switch {
	case last.Type == Done && f.last >= last.N, now.Type == Done && len(events) == 0 && f.last > 0:
		return ErrEnded
	case now.Type == Done && len(events) == 0: // the end alone needs no stream
		now.N = 1
		f.hub.mu.Lock()
		f.buffer = []Event{now}
		f.hub.mu.Unlock()
		return nil
	case last.Type != Done && now.Type == Done:
		f.again()
		return appendTo(ctx, f.hub.redis, f.task, false, now)
	case len(events) == 0:
		f.last = 0
		f.again()
		return appendTo(ctx, f.hub.redis, f.task, true, now)
	}
	if f.last > last.N {
		f.last = 0 // Redis has lost the stream that the number is of
	}
	f.fill(events)
	return nil
}

// fill adds events of the stream to the buffer. Those that were published meanwhile may be
// in both; take skips the second.
func (f *Follower) fill(events []Event) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.buffer = append(slices.Clone(events), f.buffer...)
	slices.SortStableFunc(f.buffer, func(a, b Event) int { return a.N - b.N })
	first := slices.IndexFunc(f.buffer, func(e Event) bool { return e.N > f.last })
	if first >= 0 && f.buffer[first].N > f.last+1 {
		f.last = f.buffer[first].N - 1 // the stream no longer has the events between
	}
}

// Next returns the next event, and io.EOF after Done. It waits for one until ctx ends.
func (f *Follower) Next(ctx context.Context) (Event, error) {
	for !f.over {
		e, ok, err := f.take(ctx)
		if err != nil {
			return Event{}, err
		}
		if ok {
			f.last, f.over = e.N, e.Type == Done
			return e, nil
		}
		select {
		case <-ctx.Done():
			return Event{}, ctx.Err()
		case <-f.wake:
		}
	}
	return Event{}, io.EOF
}

// take returns the next event in the buffer, which it fills from the stream when an event
// is missing.
func (f *Follower) take(ctx context.Context) (Event, bool, error) {
	for range 2 {
		f.hub.mu.Lock()
		// The end counts also where Redis lost the stream and the numbers start again at 1.
		for len(f.buffer) > 0 && f.buffer[0].N <= f.last && f.buffer[0].Type != Done {
			f.buffer = f.buffer[1:]
		}
		missing := f.reread || len(f.buffer) > 0 && f.buffer[0].N > f.last+1
		if !missing && len(f.buffer) > 0 {
			e := f.buffer[0]
			f.buffer = f.buffer[1:]
			f.hub.mu.Unlock()
			return e, true, nil
		}
		f.reread = false
		f.hub.mu.Unlock()
		if !missing {
			return Event{}, false, nil
		}
		events, err := read(ctx, f.hub.redis, f.task, f.last)
		if err != nil {
			f.again()
			return Event{}, false, err
		}
		f.fill(events)
	}
	f.signal()
	return Event{}, false, nil
}

// again makes the next call of Next read the stream.
func (f *Follower) again() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.reread = true
	f.signal()
}

func (f *Follower) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Followers returns how many followers the process has.
func (h *Hub) Followers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// Last returns the number of the last event that Next returned.
func (f *Follower) Last() int { return f.last }

// Close ends the follower.
func (f *Follower) Close() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	t := f.hub.topics[f.task]
	if t == nil || !t.followers[f] {
		return
	}
	f.hub.count--
	if delete(t.followers, f); len(t.followers) == 0 {
		delete(f.hub.topics, f.task)
	}
}

// SnapshotOf returns the state of a tenant's task. For a task of another tenant its error is
// tasks.ErrNotFound.
func SnapshotOf(c *tasks.Client, tenant, id string) Snapshot {
	return func(ctx context.Context) (Event, error) {
		info, err := c.Get(ctx, id)
		if err == nil && info.Tenant != tenant {
			err = tasks.ErrNotFound
		}
		if ended, ok := errors.AsType[*tasks.ResultInStoreError](err); ok {
			return Event{Type: Done, Time: time.Now().UTC(), Status: ended.Status}, nil
		}
		if err != nil {
			return Event{}, err
		}
		now := time.Now().UTC()
		switch {
		case info.Result != nil:
			return FromResult(info.Result), nil
		case info.State == "active":
			return Event{Type: Running, Time: now, Attempt: info.Attempts}, nil
		case info.State == "retry":
			return Event{Type: Waiting, Time: now, Attempt: info.Attempts, Reason: info.LastError, Until: info.NextRun.UTC()}, nil
		}
		return Event{Type: Queued, Time: now, Until: info.NextRun.UTC()}, nil
	}
}

// sleep waits for d; it returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
