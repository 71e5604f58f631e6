package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// The reaper brings back what a dead worker left behind, and ends what the queue would
// never end. Every worker has one; a lock lets one at a time work, and two at once do
// no harm: what moves moves by one script, and a result is written once.
type reaper struct {
	h    *Handlers
	lock lock
}

const (
	leaseSlack   = 6 * time.Second // more than the 5 s heartbeat: the owner would have renewed
	leaseEvery   = 3 * time.Second
	expiredEvery = 30 * time.Second
	expiredSlack = 20 * time.Second // a worker that has the task ends it itself
)

// Run works until ctx ends.
func (r *reaper) Run(ctx context.Context) error {
	var looked time.Time
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	for {
		if r.lock.held(ctx) {
			r.returnLeases(ctx)
			r.endCancelled(ctx)
			if time.Since(looked) >= expiredEvery {
				looked = time.Now()
				r.endExpired(ctx)
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
// lease was renewed meanwhile. A message that is gone leaves nothing to move. One that
// has a lease but is not in the list of active tasks is half of what a Redis wrote
// before it lost the other half: a file that was cut within a transaction.
var returnLease = redis.NewScript(`
local lease = redis.call("ZSCORE", KEYS[1], ARGV[1])
if not lease or tonumber(lease) > tonumber(ARGV[2]) then return 0 end
redis.call("ZREM", KEYS[1], ARGV[1])
local active = redis.call("LREM", KEYS[2], 1, ARGV[1]) > 0
if not active and redis.call("HGET", KEYS[4], "state") ~= "active" then return 0 end
if redis.call("HEXISTS", KEYS[4], "msg") == 0 then
  redis.call("DEL", KEYS[4])
  return 0
end
redis.call("HSET", KEYS[4], "state", "pending", "pending_since", ARGV[3])
redis.call("RPUSH", KEYS[3], ARGV[1])
return 1`)

// returnLeases finds tasks whose worker has not renewed its lease. The queue's own
// recovery takes one to three minutes.
func (r *reaper) returnLeases(ctx context.Context) {
	if !r.h.cfg.on(guardLeases) {
		return
	}
	for _, queue := range queues(r.h.cfg.Kinds) {
		prefix := "asynq:{" + queue + "}:"
		now := time.Now()
		late := fmt.Sprint(now.Add(-leaseSlack).Unix())
		ids, err := r.h.cfg.Redis.ZRangeByScore(ctx, prefix+"lease", &redis.ZRangeBy{Min: "-inf", Max: late, Count: 100}).Result()
		if err != nil {
			r.h.cfg.Log.Debug("leases not read", "queue", queue, "error", err)
			return
		}
		for _, id := range ids {
			if r.putAside(ctx, queue, id) {
				continue
			}
			keys := []string{prefix + "lease", prefix + "active", prefix + "pending", prefix + "t:" + id}
			moved, err := returnLease.Run(ctx, r.h.cfg.Redis, keys, id, late, now.UnixNano()).Int()
			if err == nil && moved == 1 {
				r.h.cfg.Log.Warn("task of a lost worker put back", "task", id, "queue", queue)
			}
		}
	}
}

// queued is a task as a queue has it.
type queued struct {
	queue   string
	state   string // empty when the queue does not have it
	message []byte
}

// look finds tasks in a queue, in one round trip.
func (r *reaper) look(ctx context.Context, queue string, ids []string) ([]queued, error) {
	replies := make([]*redis.SliceCmd, len(ids))
	pipe := r.h.cfg.Redis.Pipeline()
	for i, id := range ids {
		replies[i] = pipe.HMGet(ctx, "asynq:{"+queue+"}:t:"+id, "state", "msg")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("look at tasks of %s: %w", queue, err)
	}
	found := make([]queued, len(ids))
	for i, reply := range replies {
		state, _ := reply.Val()[0].(string)
		message, _ := reply.Val()[1].(string)
		found[i] = queued{queue, state, []byte(message)}
	}
	return found, nil
}

// end writes the end of a task that no worker is at, and takes it out of its queue.
// A worker that takes it in between finds the result.
func (r *reaper) end(ctx context.Context, id string, q queued, f *tasks.Failure) error {
	task, payload, err := tasks.DecodeMessage(q.message)
	j := &job{h: r.h, task: task}
	if err != nil {
		j.task, j.raw = tasks.Task{ID: id, Tenant: "default", CreatedAt: time.Now().UTC()}, payload
		f = &tasks.Failure{Code: "payload_invalid", Message: clean(err.Error())}
	}
	err = r.h.findResult(ctx, j)
	if err == nil && !j.over {
		err = r.h.fail(ctx, j, f)
	}
	if err == nil {
		err = r.h.tidy(ctx, j)
	}
	if err != nil {
		return err
	}
	err = asynq.NewInspectorFromRedisClient(r.h.cfg.Redis).DeleteTask(q.queue, id)
	if errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound) {
		return nil
	}
	return err
}

func queues(kinds []tasks.Kind) []string {
	var names []string
	for _, k := range kinds {
		names = append(names, tasks.Queue(k, tasks.Interactive), tasks.Queue(k, tasks.Bulk))
	}
	return names
}
