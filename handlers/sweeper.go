package handlers

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// The sweeper looks through all there is for what no single look finds: accepted tasks
// that Redis lost, active ones that nobody has, archived ones without an end. Like the
// reaper it works in one worker at a time, and twice does no harm.
type sweeper struct {
	h    *Handlers
	lock lock
}

const (
	sweepTick  = 5 * time.Second
	sweepEvery = time.Minute      // a sweep that takes long comes less often, ten times its length apart,
	sweepMost  = 15 * time.Minute // but not less often than this, and always after Redis was away
	recordAge  = time.Minute      // younger records may still be on their way into the queue
)

// Run works until ctx ends.
func (s *sweeper) Run(ctx context.Context) error {
	var last, broke time.Time
	wait := time.Duration(0)
	tick := time.NewTicker(sweepTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		at := s.h.presence.sinceBreak()
		if time.Since(last) < wait && at.Equal(broke) || !s.h.presence.settled() || !s.lock.held(ctx) {
			continue
		}
		last, broke = time.Now(), at
		s.sweep(ctx)
		wait = min(max(10*time.Since(last), sweepEvery), sweepMost)
	}
}

func (s *sweeper) sweep(ctx context.Context) {
	r := &reaper{h: s.h}
	r.returnStranded(ctx)
	r.endArchived(ctx)
	if !s.h.cfg.on(guardPending) {
		return
	}
	// Redis may have forgotten everything a moment ago: what the workers are at must
	// stand there again before their tasks come back.
	if s.h.presence.beat(ctx); !s.h.presence.settled() {
		return
	}
	client := tasks.NewClient(tasks.Config{Redis: s.h.cfg.Redis, Store: s.h.cfg.Store})
	n, err := client.Recover(ctx, tasks.Recovery{
		OlderThan: recordAge,
		Progress:  func(tasks.Recovered) { s.lock.held(ctx) },
		Damaged:   s.endDamaged,
	})
	switch {
	case err != nil && ctx.Err() == nil:
		s.h.cfg.Log.Warn("pending records not all looked at", "error", clean(err.Error()))
	case n.Returned > 0:
		s.h.cfg.Log.Warn("tasks that redis had lost are back in the queue", "count", n.Returned)
	}
}

// endDamaged ends a task whose record cannot be read.
func (s *sweeper) endDamaged(ctx context.Context, tenant, id string, document []byte) error {
	j := &job{h: s.h, raw: document, task: tasks.Task{ID: id, Tenant: tenant, CreatedAt: time.Now().UTC()}}
	if err := s.h.fail(ctx, j, &tasks.Failure{Code: "payload_invalid", Message: "its pending record cannot be read"}); err != nil {
		return err
	}
	return s.h.cfg.Store.Delete(ctx, tasks.PendingKey(tenant, id))
}

// relet gives an active task without a lease a new one: an owner that lives renews it,
// else it comes back like any other. What has no message is removed.
var relet = redis.NewScript(`
if redis.call("ZSCORE", KEYS[1], ARGV[1]) then return 0 end
if not redis.call("LPOS", KEYS[2], ARGV[1]) then return 0 end
if redis.call("HEXISTS", KEYS[3], "msg") == 0 then
  redis.call("LREM", KEYS[2], 0, ARGV[1])
  redis.call("DEL", KEYS[3])
  return 0
end
redis.call("ZADD", KEYS[1], ARGV[2], ARGV[1])
return 1`)

// returnStranded finds active tasks that the queue would never look at again.
func (r *reaper) returnStranded(ctx context.Context) {
	if !r.h.cfg.on(guardStranded) {
		return
	}
	for _, queue := range queues(r.h.cfg.Kinds) {
		prefix := "asynq:{" + queue + "}:"
		ids, err := r.h.cfg.Redis.LRange(ctx, prefix+"active", 0, -1).Result()
		if err != nil {
			return
		}
		for _, id := range ids {
			keys := []string{prefix + "lease", prefix + "active", prefix + "t:" + id}
			n, err := relet.Run(ctx, r.h.cfg.Redis, keys, id, time.Now().Add(30*time.Second).Unix()).Int()
			if err != nil {
				return
			}
			if n == 1 {
				r.h.cfg.Log.Warn("active task without a lease", "task", id, "queue", queue)
			}
		}
	}
}

// setAside keeps a damaged message for a week where it is in nobody's way.
var setAside = redis.NewScript(`
redis.call("ZREM", KEYS[1], ARGV[1])
redis.call("LREM", KEYS[2], 0, ARGV[1])
if redis.call("EXISTS", KEYS[3]) == 1 then
  redis.call("RENAME", KEYS[3], KEYS[4])
  redis.call("EXPIRE", KEYS[4], 604800)
end
return 1`)

var ownID = regexp.MustCompile(`^t_[a-z0-9_]+$`)

// putAside takes a damaged message out of the queue, where it would stop the recovery
// of all others; true when it was one. A task that has its record comes back from it,
// another ends as failed.
func (r *reaper) putAside(ctx context.Context, queue, id string) bool {
	if !r.h.cfg.on(guardCorrupt) {
		return false
	}
	found, err := r.look(ctx, queue, []string{id})
	if err != nil || len(found[0].message) == 0 {
		return false
	}
	if _, payload, err := tasks.DecodeMessage(found[0].message); err == nil || payload != nil {
		return false // the handler ends what is wrong with the task itself
	}
	prefix := "asynq:{" + queue + "}:"
	keys := []string{prefix + "lease", prefix + "active", prefix + "t:" + id, "neuronmill:corrupt:{" + queue + "}:" + id}
	if err := setAside.Run(ctx, r.h.cfg.Redis, keys, id).Err(); err != nil {
		return false
	}
	r.h.cfg.Log.Error("a damaged message is put aside", "key", clean(keys[3]))
	if ownID.MatchString(id) && !r.recorded(ctx, id) {
		j := &job{h: r.h, raw: bytes.Clone(found[0].message), task: tasks.Task{ID: id, Tenant: "default", CreatedAt: time.Now().UTC()}}
		if err := r.h.fail(ctx, j, &tasks.Failure{Code: "payload_invalid", Message: "its message in the queue was damaged"}); err != nil {
			r.h.cfg.Log.Warn("no failure document", "task", id, "error", err)
		}
	}
	return true
}

// recorded reports whether a task has a pending record, of any tenant.
func (r *reaper) recorded(ctx context.Context, id string) bool {
	for tenant, err := range tasks.Tenants(ctx, r.h.cfg.Store) {
		if err != nil {
			return true // better late than twice
		}
		_, err := r.h.cfg.Store.Head(ctx, tasks.PendingKey(tenant, id))
		if !errors.Is(err, storage.ErrNotFound) {
			return true
		}
	}
	return false
}
