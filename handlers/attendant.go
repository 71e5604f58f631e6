package handlers

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// attendant parks tasks whose gate has no room and brings them back when it has.
// Every worker has one; a lock lets one at a time work.
type attendant struct {
	cfg   Config
	lock  lock
	calls map[string]int // of a queue and model, when tasks were last brought back
}

// Run works until ctx ends.
func (a *attendant) Run(ctx context.Context) error {
	tick := time.NewTicker(5 * a.cfg.Poll)
	defer tick.Stop()
	for {
		if a.lock.held(ctx) {
			if err := a.round(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Log.Debug("parked tasks not looked after", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// round looks at all queues and gates once.
func (a *attendant) round(ctx context.Context) error {
	queues := queues(a.cfg.Kinds)
	models := make([]*redis.StringSliceCmd, len(queues))
	pending := make([]*redis.IntCmd, len(queues))
	pipe := a.cfg.Redis.Pipeline()
	for i, q := range queues {
		models[i] = pipe.SMembers(ctx, tasks.ModelsKey(q))
		pending[i] = pipe.LLen(ctx, "asynq:{"+q+"}:pending")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	names := []string{limit.Account}
	for _, m := range models {
		names = append(names, m.Val()...)
	}
	if len(names) == 1 {
		return nil
	}
	states, err := a.cfg.Gate.States(ctx, names...)
	if err != nil {
		return err
	}
	gates := map[string]limit.State{}
	for _, s := range states {
		gates[s.Name] = s
	}
	if gates[limit.Account].Closed > look {
		return nil // nobody can pass: all wait where they are
	}
	var errs []error
	for i, q := range queues {
		if len(models[i].Val()) > 0 {
			errs = append(errs, a.look(ctx, q, models[i].Val(), gates, pending[i].Val()))
		}
	}
	return errors.Join(errs...)
}

// look parks and brings back in one queue.
func (a *attendant) look(ctx context.Context, queue string, models []string, gates map[string]limit.State, pending int64) error {
	_, lane, _ := strings.Cut(queue, ":")
	var full []string
	var errs []error
	for _, m := range models {
		room := gates[m].Room(lane)
		if room == 0 {
			full = append(full, m)
		} else if n := a.worth(queue, gates[m], room); n > 0 {
			errs = append(errs, unparkTo(ctx, a.cfg.Redis, queue, m, n))
		}
	}
	if pending > 0 && len(full) > 0 && len(models) > 1 && a.cfg.on(guardPark) {
		errs = append(errs, siftQueue(ctx, a.cfg.Redis, queue, full))
	}
	if pending == 0 {
		errs = append(errs, forgetModels(ctx, a.cfg.Redis, queue))
	}
	return errors.Join(errs...)
}

// worth is how many tasks room for so many callers is. Those that ride together are
// brought back by the calls that left: each makes room for as many as it may have
// carried.
func (a *attendant) worth(queue string, s limit.State, room int) int {
	row, _ := catalogue.Find(s.Name)
	if row.Texts <= 1 {
		return room
	}
	if a.calls == nil {
		a.calls = map[string]int{}
	}
	left := s.Calls - a.calls[queue+s.Name]
	a.calls[queue+s.Name] = s.Calls
	if s.Interactive+s.Bulk == 0 {
		left = max(left, 1)
	}
	return min(room, left) * row.Texts
}

// lock lets one process at a time do what all could.
type lock struct {
	redis redis.UniversalClient
	key   string
	owner string
	keep  time.Duration
}

var takeLock = redis.NewScript(`
local owner = redis.call("GET", KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1`)

// held takes the lock or renews it, and reports whether this process has it.
func (l lock) held(ctx context.Context) bool {
	got, err := takeLock.Run(ctx, l.redis, []string{l.key}, l.owner, l.keep.Milliseconds()).Int()
	return err == nil && got == 1
}
