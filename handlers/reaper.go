package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// The reaper brings back what a dead worker or a lost Redis left behind. Every worker
// has one; a lock lets one at a time work, and two at once do no harm: a lease moves
// by one script, and a task that is queued already stays as it is.
type reaper struct {
	cfg  Config
	lock lock
}

const (
	leaseSlack  = 6 * time.Second // more than the 5 s heartbeat: the owner would have renewed
	leaseEvery  = 3 * time.Second
	pendingAge  = time.Minute // younger records may still be on their way into the queue
	pendingTick = time.Minute
)

// Run works until ctx ends.
func (r *reaper) Run(ctx context.Context) error {
	var sweep time.Time
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	for {
		if r.lock.held(ctx) {
			r.returnLeases(ctx)
			if time.Since(sweep) >= pendingTick {
				sweep = time.Now()
				r.returnPending(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// returnLease moves one task of a dead worker to the head of its queue, unless its
// lease was renewed meanwhile. A message that is gone leaves nothing to move.
var returnLease = redis.NewScript(`
local lease = redis.call("ZSCORE", KEYS[1], ARGV[1])
if not lease or tonumber(lease) > tonumber(ARGV[2]) then return 0 end
redis.call("ZREM", KEYS[1], ARGV[1])
if redis.call("LREM", KEYS[2], 1, ARGV[1]) == 0 then return 0 end
if redis.call("HEXISTS", KEYS[4], "msg") == 0 then return 0 end
redis.call("HSET", KEYS[4], "state", "pending", "pending_since", ARGV[3])
redis.call("RPUSH", KEYS[3], ARGV[1])
return 1`)

// returnLeases finds tasks whose worker has not renewed its lease. The queue's own
// recovery takes one to three minutes.
func (r *reaper) returnLeases(ctx context.Context) {
	for _, queue := range queues(r.cfg.Kinds) {
		prefix := "asynq:{" + queue + "}:"
		now := time.Now()
		late := fmt.Sprint(now.Add(-leaseSlack).Unix())
		ids, err := r.cfg.Redis.ZRangeByScore(ctx, prefix+"lease", &redis.ZRangeBy{Min: "-inf", Max: late, Count: 100}).Result()
		if err != nil {
			r.cfg.Log.Debug("leases not read", "queue", queue, "error", err)
			return
		}
		for _, id := range ids {
			keys := []string{prefix + "lease", prefix + "active", prefix + "pending", prefix + "t:" + id}
			moved, err := returnLease.Run(ctx, r.cfg.Redis, keys, id, late, now.UnixNano()).Int()
			if err == nil && moved == 1 {
				r.cfg.Log.Warn("task of a lost worker put back", "task", id, "queue", queue)
			}
		}
	}
}

// returnPending enqueues accepted tasks that the queue has lost.
func (r *reaper) returnPending(ctx context.Context) {
	client := tasks.NewClient(tasks.Config{Redis: r.cfg.Redis, Store: r.cfg.Store})
	returned := 0
	for info, err := range r.cfg.Store.List(ctx, "default/pending/", "") {
		if err != nil {
			r.cfg.Log.Warn("pending records not listed", "error", err)
			return
		}
		if time.Since(info.Modified) < pendingAge {
			continue
		}
		task, err := r.readPending(ctx, info.Key)
		if errors.Is(err, storage.ErrNotFound) {
			continue // it ended while we looked
		}
		if err == nil {
			err = client.Requeue(ctx, task)
		}
		if err != nil {
			r.cfg.Log.Warn("pending record not put back", "key", info.Key, "error", err)
			continue
		}
		returned++
	}
	if returned > 0 {
		r.cfg.Log.Debug("pending records checked against the queue", "count", returned)
	}
}

func (r *reaper) readPending(ctx context.Context, key string) (tasks.Task, error) {
	body, err := r.cfg.Store.Get(ctx, key)
	if err != nil {
		return tasks.Task{}, err
	}
	defer body.Close()
	var task tasks.Task
	document, err := io.ReadAll(io.LimitReader(body, 1<<20))
	if err == nil {
		err = json.Unmarshal(document, &task)
	}
	return task, err
}

func queues(kinds []tasks.Kind) []string {
	var names []string
	for _, k := range kinds {
		names = append(names, tasks.Queue(k, tasks.Interactive), tasks.Queue(k, tasks.Bulk))
	}
	return names
}
