package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// A task whose gate has no room is parked: it leaves its worker slot to other models,
// and comes back, in the order of its acceptance, when its own gate has room. For the
// queue it is one that comes again much later; the parking list, in the same slot of a
// cluster as its queue, knows the order.

// parkedFor is when the queue brings a parked task by itself, should its parking list
// be lost.
const parkedFor = time.Hour

// park writes a task down in the list of its queue and model, and says how to hand it
// back.
func (h *Handlers) park(ctx context.Context, t tasks.Task, why string) error {
	queue := tasks.Queue(t.Kind, t.Lane)
	pipe := h.cfg.Redis.TxPipeline()
	pipe.ZAdd(ctx, tasks.ParkedKey(queue, t.Model), redis.Z{Score: float64(t.CreatedAt.UnixMicro()), Member: t.ID})
	pipe.SAdd(ctx, tasks.ParkedModelsKey(queue), t.Model)
	after := min(parkedFor, time.Until(t.Deadline)+time.Second)
	if _, err := pipe.Exec(ctx); err != nil {
		after = min(after, 5*time.Second)
	}
	return &handback{after: after, why: why}
}

// sift is how long a task without room keeps its slot before it is parked, so that a
// long queue is searched for other models' tasks at a bounded cost.
const sift = 50 * time.Millisecond

// unpark brings the first of a parking list to the head of their queue. A task that is
// still on its way there stays; one that came back by other ways is forgotten.
var unpark = redis.NewScript(`
local ids = redis.call("ZRANGE", KEYS[1], 0, ARGV[1] - 1)
local moved = 0
for i = #ids, 1, -1 do
  local hash = ARGV[2] .. ids[i]
  if redis.call("ZREM", KEYS[2], ids[i]) == 1 then
    redis.call("ZREM", KEYS[1], ids[i])
    redis.call("HSET", hash, "state", "pending", "pending_since", ARGV[3])
    redis.call("RPUSH", KEYS[3], ids[i])
    moved = moved + 1
  elseif redis.call("HGET", hash, "state") ~= "active" then
    redis.call("ZREM", KEYS[1], ids[i])
  end
end
if redis.call("EXISTS", KEYS[1]) == 0 then redis.call("SREM", KEYS[4], ARGV[4]) end
return moved`)

// attendant brings parked tasks back. Every worker has one; a lock lets one at a time
// work.
type attendant struct {
	cfg  Config
	lock lock
}

// Run works until ctx ends.
func (a *attendant) Run(ctx context.Context) error {
	tick := time.NewTicker(5 * a.cfg.Poll)
	defer tick.Stop()
	for {
		if a.lock.held(ctx) {
			if err := a.bringBack(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Log.Debug("parked tasks not brought back", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// bringBack lets into each queue as many parked tasks as their gates have room for.
func (a *attendant) bringBack(ctx context.Context) error {
	queues := queues(a.cfg.Kinds)
	found := make([]*redis.StringSliceCmd, len(queues))
	pipe := a.cfg.Redis.Pipeline()
	for i, q := range queues {
		found[i] = pipe.SMembers(ctx, tasks.ParkedModelsKey(q))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	var errs []error
	for i, q := range queues {
		for _, model := range found[i].Val() {
			errs = append(errs, a.bringBackTo(ctx, q, model))
		}
	}
	return errors.Join(errs...)
}

func (a *attendant) bringBackTo(ctx context.Context, queue, model string) error {
	states, err := a.cfg.Gate.States(ctx, model, limit.Account)
	if err != nil {
		return err
	}
	room := states[0].Room()
	if states[0].Name == limit.Account {
		states[0], states[1] = states[1], states[0]
	}
	if room = states[0].Room(); states[1].Closed > time.Second {
		room = 0
	}
	if room == 0 {
		return nil
	}
	row, _ := catalogue.Find(model)
	room *= max(row.Texts, 1) // they ride together
	prefix := "asynq:{" + queue + "}:"
	keys := []string{tasks.ParkedKey(queue, model), prefix + "retry", prefix + "pending", tasks.ParkedModelsKey(queue)}
	if err := unpark.Run(ctx, a.cfg.Redis, keys, min(room, 1000), prefix+"t:", time.Now().UnixNano(), model).Err(); err != nil {
		return fmt.Errorf("bring back parked tasks of %s: %w", model, err)
	}
	return nil
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

// Service is a long-running part. Run ends soon after ctx does and leaves nothing
// running.
type Service interface {
	Run(ctx context.Context) error
}

// serve runs all services; the first to fail stops the others.
func serve(ctx context.Context, services ...Service) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range services {
		g.Go(func() error { return s.Run(ctx) })
	}
	return g.Wait()
}
