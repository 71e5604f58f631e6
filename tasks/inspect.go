package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// Info is where a task stands.
type Info struct {
	Task
	State     string    // pending, scheduled, active, retry, archived; completed or failed once it has ended
	Attempts  int       // calls begun so far that count
	LastError string    // why it comes again
	NextRun   time.Time // when it comes again; zero when it is due
	Result    *Result   // nil while it has not ended
}

// Get finds a task, in Redis or by its result. ErrNotFound when neither has it.
func (c *Client) Get(ctx context.Context, id string) (Info, error) {
	info, err := c.getResult(ctx, id)
	if !errors.Is(err, ErrNotFound) {
		return info, err
	}
	info, err = c.getQueued(ctx, id)
	if !errors.Is(err, ErrNotFound) {
		return info, err
	}
	return c.getResult(ctx, id) // it may have ended between the looks: its result was there before all else went
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

// getQueued finds a task that waits or runs.
func (c *Client) getQueued(ctx context.Context, id string) (Info, error) {
	queue, err := c.findQueue(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return c.getRecord(ctx, id)
	}
	if err != nil {
		return Info{}, err
	}
	queued, err := asynq.NewInspectorFromRedisClient(c.cfg.Redis).GetTaskInfo(queue, id)
	if errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound) {
		return Info{}, ErrNotFound
	}
	if err != nil {
		return Info{}, fmt.Errorf("look for %s: %w", id, err)
	}
	return c.describe(ctx, queued)
}

// getRecord finds a task that Redis has lost and will get back from its record.
func (c *Client) getRecord(ctx context.Context, id string) (Info, error) {
	info := Info{State: "pending"}
	if c.cfg.Store == nil {
		return Info{}, ErrNotFound
	}
	err := readJSON(ctx, c.cfg.Store, PendingKey(c.cfg.Tenant, id), &info.Task)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return Info{}, ErrNotFound
	}
	return info, err
}

func (c *Client) describe(ctx context.Context, queued *asynq.TaskInfo) (Info, error) {
	info := Info{State: queued.State.String(), LastError: queued.LastErr, NextRun: queued.NextProcessAt}
	info.Task, _ = Decode(queued.Payload)
	info.ID = queued.ID
	if info.State == "pending" || info.State == "active" {
		info.NextRun = time.Time{}
	}
	counts, err := c.cfg.Redis.HMGet(ctx, LiveKey(queued.ID), "attempts", "unpaid").Result()
	if err != nil {
		return info, fmt.Errorf("read the counters of %s: %w", queued.ID, err)
	}
	for i, sign := range []int{1, -1} {
		text, _ := counts[i].(string)
		n, _ := strconv.Atoi(text)
		info.Attempts += sign * n
	}
	return info, nil
}

// Queues are the names of all asynq queues, interactive ones first.
func Queues() []string {
	var names []string
	for _, l := range []Lane{Interactive, Bulk} {
		for _, s := range Specs {
			names = append(names, Queue(s.Kind, l))
		}
	}
	return names
}

// findQueue asks all queues for a task in one round trip.
func (c *Client) findQueue(ctx context.Context, id string) (string, error) {
	queues := Queues()
	replies := make([]*redis.IntCmd, len(queues))
	pipe := c.cfg.Redis.Pipeline()
	for i, q := range queues {
		replies[i] = pipe.Exists(ctx, "asynq:{"+q+"}:t:"+id)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return "", fmt.Errorf("look for %s: %w", id, err)
	}
	i := slices.IndexFunc(replies, func(r *redis.IntCmd) bool { return r.Val() == 1 })
	if i < 0 {
		return "", ErrNotFound
	}
	return queues[i], nil
}

// Result is a task's result; ErrNotFound while there is none. Without a Store it is
// known for an hour after the end, and only when it has at most 64 KiB.
func (c *Client) Result(ctx context.Context, id string) (*Result, error) {
	r, _, err := c.announced(ctx, id)
	if err != nil && c.cfg.Store != nil {
		return c.storedResult(ctx, id)
	}
	return r, err
}

// announced is the result as the worker left it in Redis for those who wait. A task
// that is known to have ended, without its result, has it in the bucket only.
func (c *Client) announced(ctx context.Context, id string) (r *Result, ended bool, err error) {
	values, err := c.cfg.Redis.HMGet(ctx, LiveKey(id), "result", "ended").Result()
	if err != nil {
		return nil, false, fmt.Errorf("look for the result of %s: %w", id, err)
	}
	document, ok := values[0].(string)
	if !ok {
		return nil, values[1] != nil, ErrNotFound
	}
	if err := json.Unmarshal([]byte(document), &r); err != nil {
		return nil, true, fmt.Errorf("decode the result of %s: %w", id, err)
	}
	return r, true, nil
}

func (c *Client) storedResult(ctx context.Context, id string) (*Result, error) {
	return StoredResult(ctx, c.cfg.Store, c.cfg.Tenant, id)
}

// StoredResult reads the document that ended a task; ErrNotFound where there is none.
func StoredResult(ctx context.Context, s storage.Store, tenant, id string) (*Result, error) {
	var r Result
	err := readJSON(ctx, s, ResultKey(tenant, id), &r)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// ListFilter narrows List.
type ListFilter struct {
	Kind  Kind   // all when empty
	Lane  Lane   // both when empty
	State string // pending, scheduled, active, retry or archived; all when empty
	Limit int    // at most so many; 0 means 100
}

// List gives tasks that have not ended, as Redis has them. Those that have ended are
// in the bucket.
func (c *Client) List(ctx context.Context, f ListFilter) ([]Info, error) {
	if f.Limit == 0 {
		f.Limit = 100
	}
	inspector := asynq.NewInspectorFromRedisClient(c.cfg.Redis)
	states := map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		"active": inspector.ListActiveTasks, "pending": inspector.ListPendingTasks, "retry": inspector.ListRetryTasks,
		"scheduled": inspector.ListScheduledTasks, "archived": inspector.ListArchivedTasks,
	}
	if _, ok := states[f.State]; f.State != "" && !ok {
		return nil, Problems{{"state", quote(f.State) + " is none of active, pending, retry, scheduled, archived"}}
	}
	var list []Info
	for _, q := range Queues() {
		if !matches(q, f) {
			continue
		}
		for _, state := range []string{"active", "pending", "retry", "scheduled", "archived"} {
			if f.State != "" && f.State != state {
				continue
			}
			found, err := states[state](q, asynq.PageSize(f.Limit))
			if errors.Is(err, asynq.ErrQueueNotFound) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list %s tasks of %s: %w", state, q, err)
			}
			for _, t := range found {
				info, err := c.describe(ctx, t)
				if err != nil {
					return nil, err
				}
				if list = append(list, info); len(list) == f.Limit {
					return list, nil
				}
			}
		}
	}
	return list, nil
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

// Cancel ends a task that has not ended, within seconds while a worker runs: a waiting
// one at once, a running one before its next call. ErrEnded when it has a result.
func (c *Client) Cancel(ctx context.Context, id string) error {
	info, err := c.Get(ctx, id)
	if err != nil {
		return err
	}
	if info.Result != nil {
		return ErrEnded
	}
	if info.Pending && c.cfg.Store != nil { // so that the wish outlives Redis
		t := info.Task
		t.Cancelled = true
		document, err := json.Marshal(t)
		if err == nil {
			err = c.cfg.Store.Put(ctx, PendingKey(t.Tenant, id), bytes.NewReader(document), "application/json")
		}
		if err != nil {
			return fmt.Errorf("cancel %s: %w", id, err)
		}
	}
	deadline := info.Deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(LiveTTL)
	}
	pipe := c.cfg.Redis.Pipeline()
	pipe.HSet(ctx, LiveKey(id), "cancelled", 1)
	pipe.ExpireAt(ctx, LiveKey(id), deadline.Add(LiveTTL))
	pipe.ZAdd(ctx, CancelledKey, redis.Z{Score: float64(time.Now().Unix()), Member: id})
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("cancel %s: %w", id, err)
	}
	return nil
}
