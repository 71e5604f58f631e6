package queue

import (
	"context"
	_ "embed" // the scripts
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// A deferred task has left its worker slot and waits until its gate has room. In asynq it
// is a retry that is due after its deadline, when the expirer has already ended it. A
// sorted set per queue and model holds the order of acceptance; see DeferredKey. A task's
// field "turn" holds the time of acceptance, the deadline, and the model; see Entry.

// DeferredSlack is the time from a deferred task's deadline to its retry by asynq, so that
// the expirer ends the task first.
const DeferredSlack = time.Minute

const (
	deferPage   = 500  // tasks that one script reads, to bound how long it blocks Redis
	deferPages  = 40   // most scripts in one run
	readmitPage = 1000 // most tasks that one script re-admits
)

var (
	//go:embed defer_head.lua
	deferHeadLua string
	//go:embed readmit.lua
	readmitLua string
	//go:embed forget_models.lua
	forgetModelsLua string

	deferHead    = redis.NewScript(deferHeadLua)
	readmit      = redis.NewScript(wakeLua + readmitLua)
	forgetModels = redis.NewScript(forgetModelsLua)
)

// Defer adds a task to the deferred tasks of its queue and model. The caller then returns
// the task to asynq as a retry that is due DeferredSlack after its deadline.
func Defer(ctx context.Context, r redis.UniversalClient, queue, model, id string, accepted time.Time) error {
	pipe := r.TxPipeline()
	pipe.ZAdd(ctx, DeferredKey(queue, model), redis.Z{Score: float64(accepted.UnixMicro()), Member: id})
	pipe.SAdd(ctx, ModelsKey(queue), model)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("defer %s: %w", id, err)
	}
	return nil
}

// DeferPending defers the pending tasks of the given models until those at the head of the
// queue are mostly of other models.
func DeferPending(ctx context.Context, r redis.UniversalClient, queue string, models []string) error {
	keys := []string{pendingKey(queue), retryKey(queue)}
	args := []any{deferPage, taskPrefix(queue), int(DeferredSlack.Seconds())}
	for _, m := range models {
		keys, args = append(keys, DeferredKey(queue, m)), append(args, m)
	}
	for range deferPages {
		moved, err := deferHead.Run(ctx, r, keys, args...).Int()
		if err != nil {
			return fmt.Errorf("defer the tasks of %s without room: %w", queue, err)
		}
		if moved < deferPage/2 {
			return nil
		}
	}
	return nil
}

// Readmit moves the first deferred tasks of a model to the head of their queue, until room
// pending tasks are of that model.
func Readmit(ctx context.Context, r redis.UniversalClient, queue, model string, room int) error {
	keys := []string{DeferredKey(queue, model), retryKey(queue), pendingKey(queue)}
	if err := readmit.Run(ctx, r, keys, min(room, readmitPage), taskPrefix(queue), time.Now().UnixNano(), model).Err(); err != nil {
		return fmt.Errorf("bring back deferred tasks of %s: %w", model, err)
	}
	return nil
}

// ForgetModels deletes the set of models of a queue without tasks, deferred ones included.
func ForgetModels(ctx context.Context, r redis.UniversalClient, queue string, models []string) error {
	keys := []string{ModelsKey(queue), pendingKey(queue), activeKey(queue), scheduledKey(queue), retryKey(queue)}
	for _, m := range models {
		keys = append(keys, DeferredKey(queue, m))
	}
	if err := forgetModels.Run(ctx, r, keys).Err(); err != nil {
		return fmt.Errorf("forget the models of %s: %w", queue, err)
	}
	return nil
}

// HasDeferred reports whether a queue has deferred tasks of any of the models.
func HasDeferred(ctx context.Context, r redis.UniversalClient, queue string, models []string) (bool, error) {
	if len(models) == 0 {
		return false, nil
	}
	keys := make([]string, len(models))
	for i, m := range models {
		keys[i] = DeferredKey(queue, m)
	}
	n, err := r.Exists(ctx, keys...).Result()
	if err != nil {
		return false, fmt.Errorf("look for deferred tasks of %s: %w", queue, err)
	}
	return n > 0, nil
}

// Backlog describes the waiting tasks of a queue: its models, and how many tasks are pending.
type Backlog struct {
	Queue   string
	Models  []string
	Pending int64
}

// Backlogs reads the backlogs of queues in one round trip.
func Backlogs(ctx context.Context, r redis.UniversalClient, queues []string) ([]Backlog, error) {
	models := make([]*redis.StringSliceCmd, len(queues))
	pending := make([]*redis.IntCmd, len(queues))
	pipe := r.Pipeline()
	for i, q := range queues {
		models[i] = pipe.SMembers(ctx, ModelsKey(q))
		pending[i] = pipe.LLen(ctx, pendingKey(q))
	}
	if _, err := pipe.Exec(ctx); err != nil && len(queues) > 0 {
		return nil, fmt.Errorf("look at the queues: %w", err)
	}
	backlogs := make([]Backlog, len(queues))
	for i, q := range queues {
		backlogs[i] = Backlog{q, models[i].Val(), pending[i].Val()}
	}
	return backlogs, nil
}
