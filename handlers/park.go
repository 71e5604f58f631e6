package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// A task whose gate has no room is parked, when its queue has tasks of other models
// too: it leaves its worker slot to them, and comes back, in the order of its
// acceptance, when its own gate has room. For the queue it is one that comes again much
// later; the parking list, in the same slot of a cluster as its queue, knows the order.
// Where all tasks of a queue wait for the same model, nothing is gained by that, and
// they wait in place.

// parkedFor is when the queue brings a parked task by itself, should its parking list
// be lost.
const parkedFor = time.Hour

// park writes a task down in the list of its queue and model, and says how to hand it
// back.
func (h *Handlers) park(ctx context.Context, t tasks.Task, why string) error {
	queue := tasks.Queue(t.Kind, t.Lane)
	pipe := h.cfg.Redis.TxPipeline()
	pipe.ZAdd(ctx, tasks.ParkedKey(queue, t.Model), redis.Z{Score: float64(t.CreatedAt.UnixMicro()), Member: t.ID})
	pipe.SAdd(ctx, tasks.ModelsKey(queue), t.Model)
	after := min(parkedFor, time.Until(t.Deadline)+time.Second)
	if _, err := pipe.Exec(ctx); err != nil {
		after = min(after, 5*time.Second)
	}
	return &handback{after: after, why: why}
}

// look is how long it is taken for true whether a queue is shared.
const look = time.Second

// shared reports whether a queue has tasks of several models. While one caller asks
// Redis, the others take what was true before.
func (h *Handlers) shared(ctx context.Context, k tasks.Kind, l tasks.Lane) bool {
	queue := tasks.Queue(k, l)
	h.sharing.mu.Lock()
	seen := h.sharing.queues[queue]
	fresh := time.Since(seen.at) < look
	if !fresh {
		h.sharing.queues[queue] = sharing{time.Now(), seen.shared}
	}
	h.sharing.mu.Unlock()
	if fresh {
		return seen.shared
	}
	n, err := h.cfg.Redis.SCard(ctx, tasks.ModelsKey(queue)).Result()
	if err != nil {
		return seen.shared
	}
	h.sharing.mu.Lock()
	defer h.sharing.mu.Unlock()
	h.sharing.queues[queue] = sharing{time.Now(), n > 1}
	return n > 1
}

// sharing is what was last seen of a queue.
type sharing struct {
	at     time.Time
	shared bool
}

// seats is how many tasks of one model may hold slots of a shared queue while they
// wait: the other half is for other models.
func (h *Handlers) seats(k tasks.Kind) int { return (h.cfg.slots(k) + 1) / 2 }

// The scripts below move tasks between a queue and its parking lists as the queue's
// own scripts do. A task's field "turn" is when it was accepted, when it is given up,
// and its model; see package tasks.

// sift parks what waits at the head of a queue for models without room, so that
// others come to the front. It gives the number that it moved.
var sift = redis.NewScript(`
local full = {}
for i = 5, #ARGV do full[ARGV[i]] = KEYS[i - 2] end
local ids = redis.call("LRANGE", KEYS[1], -ARGV[1], -1)
local kept, moved = {}, 0
for i = 1, #ids do
  local turn = redis.call("HGET", ARGV[2] .. ids[i], "turn")
  local accepted, last, model = string.match(turn or "", "^(%d+) (%d+) (.*)$")
  if model and full[model] then
    redis.call("HSET", ARGV[2] .. ids[i], "state", "retry")
    redis.call("HDEL", ARGV[2] .. ids[i], "pending_since")
    redis.call("ZADD", KEYS[2], math.min(ARGV[3] + ARGV[4], last + 1), ids[i])
    redis.call("ZADD", full[model], accepted, ids[i])
    moved = moved + 1
  else
    kept[#kept + 1] = ids[i]
  end
end
if moved > 0 then
  redis.call("LTRIM", KEYS[1], 0, -1 - #ids)
  if #kept > 0 then redis.call("RPUSH", KEYS[1], unpack(kept)) end
end
return moved`)

// unpark brings the first of a parking list to the head of their queue, until so many
// of the model are there. A task that is still on its way to the list stays; one that
// came back by other ways is forgotten.
var unpark = redis.NewScript(`
local room = tonumber(ARGV[1])
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
for _, id in ipairs(redis.call("LRANGE", KEYS[3], -room, -1)) do
  local model = string.match(redis.call("HGET", ARGV[2] .. id, "turn") or "", "^%d+ %d+ (.*)$")
  if model == ARGV[4] then room = room - 1 end
end
if room <= 0 then return 0 end
local ids = redis.call("ZRANGE", KEYS[1], 0, room - 1)
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
return moved`)

// forget drops the set of models of a queue that is empty.
var forget = redis.NewScript(`
for i = 2, #KEYS do
  if redis.call("EXISTS", KEYS[i]) == 1 then return 0 end
end
return redis.call("DEL", KEYS[1])`)

// siftAtOnce is how many tasks one script looks at, to keep Redis free for others.
const siftAtOnce = 500

// siftQueue parks all that waits in a queue for the given models, as far as they stand
// before others.
func siftQueue(ctx context.Context, r redis.UniversalClient, queue string, models []string) error {
	prefix := "asynq:{" + queue + "}:"
	keys := []string{prefix + "pending", prefix + "retry"}
	args := []any{siftAtOnce, prefix + "t:", time.Now().Unix(), int(parkedFor.Seconds())}
	for _, m := range models {
		keys, args = append(keys, tasks.ParkedKey(queue, m)), append(args, m)
	}
	for range 40 {
		moved, err := sift.Run(ctx, r, keys, args...).Int()
		if err != nil {
			return fmt.Errorf("park the tasks of %s without room: %w", queue, err)
		}
		if moved < siftAtOnce/2 {
			return nil
		}
	}
	return nil
}

func unparkTo(ctx context.Context, r redis.UniversalClient, queue, model string, room int) error {
	prefix := "asynq:{" + queue + "}:"
	keys := []string{tasks.ParkedKey(queue, model), prefix + "retry", prefix + "pending"}
	if err := unpark.Run(ctx, r, keys, min(room, 1000), prefix+"t:", time.Now().UnixNano(), model).Err(); err != nil {
		return fmt.Errorf("bring back parked tasks of %s: %w", model, err)
	}
	return nil
}

func forgetModels(ctx context.Context, r redis.UniversalClient, queue string) error {
	prefix := "asynq:{" + queue + "}:"
	keys := []string{tasks.ModelsKey(queue), prefix + "pending", prefix + "active", prefix + "scheduled", prefix + "retry"}
	if err := forget.Run(ctx, r, keys).Err(); err != nil {
		return fmt.Errorf("forget the models of %s: %w", queue, err)
	}
	return nil
}
