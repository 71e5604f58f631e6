package queue

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed models_of.lua
	modelsOfLua string
	//go:embed forget_model.lua
	forgetModelLua string
	//go:embed drop_orphans.lua
	dropOrphansLua string
	//go:embed add_deferred.lua
	addDeferredLua string

	modelsOf    = redis.NewScript(modelsOfLua)
	forgetModel = redis.NewScript(forgetModelLua)
	dropOrphans = redis.NewScript(dropOrphansLua)
	addDeferred = redis.NewScript(addDeferredLua)
)

// ModelsOf returns the models of one page of pending tasks, counted from the head of the
// list, and of one page of active tasks.
func ModelsOf(ctx context.Context, r redis.UniversalClient, queue string, offset, page int64) ([]string, error) {
	found, err := modelsOf.Run(ctx, r, []string{pendingKey(queue), activeKey(queue)}, taskPrefix(queue), offset, page).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("count the models of %s: %w", queue, err)
	}
	return found, nil
}

// AddModels adds to the models of a queue.
func AddModels(ctx context.Context, r redis.UniversalClient, queue string, models ...any) error {
	if err := r.SAdd(ctx, ModelsKey(queue), models...).Err(); err != nil {
		return fmt.Errorf("add to the models of %s: %w", queue, err)
	}
	return nil
}

// ForgetModel removes a model from those of a queue, unless the model has deferred tasks.
func ForgetModel(ctx context.Context, r redis.UniversalClient, queue, model string) error {
	if err := forgetModel.Run(ctx, r, []string{ModelsKey(queue), DeferredKey(queue, model)}, model).Err(); err != nil {
		return fmt.Errorf("forget %s in %s: %w", model, queue, err)
	}
	return nil
}

// DropOrphans removes entries from a list of deferred tasks when their task is gone or
// pending, and returns their number. It keeps active ones: a worker may be about to defer
// them.
func DropOrphans(ctx context.Context, r redis.UniversalClient, queue, model string, ids []string) (int, error) {
	args := []any{taskPrefix(queue)}
	for _, id := range ids {
		args = append(args, id)
	}
	key := DeferredKey(queue, model)
	n, err := dropOrphans.Run(ctx, r, []string{key}, args...).Int()
	if err != nil {
		return 0, fmt.Errorf("drop entries of %s: %w", key, err)
	}
	return n, nil
}

// RetryKey returns the key of a queue's retries, deferred tasks included: a sorted set of
// ids by the time of the retry.
func RetryKey(queue string) string { return retryKey(queue) }

// Relist adds retries that are deferred but missing from the deferred tasks of their model,
// and returns how many it added for each model. A deferred task is known by its retry time,
// which is after its deadline.
func Relist(ctx context.Context, r redis.UniversalClient, queue string, ids []string) (map[string]int, error) {
	turns := make([]*redis.StringCmd, len(ids))
	pipe := r.Pipeline()
	for i, id := range ids {
		turns[i] = pipe.HGet(ctx, taskKey(queue, id), "turn")
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("look at deferred tasks of %s: %w", queue, err)
	}
	args := map[string][]any{}
	for i, id := range ids {
		accepted, rest, _ := strings.Cut(turns[i].Val(), " ")
		deadline, model, ok := strings.Cut(rest, " ")
		if ok {
			args[model] = append(args[model], id, accepted, deadline)
		}
	}
	added := map[string]int{}
	for model, a := range args {
		n, err := addDeferred.Run(ctx, r, []string{retryKey(queue), DeferredKey(queue, model)}, a...).Int()
		if err != nil {
			return added, fmt.Errorf("list deferred tasks of %s: %w", queue, err)
		}
		if n == 0 {
			continue
		}
		added[model] = n
		if err := AddModels(ctx, r, queue, model); err != nil {
			return added, err
		}
	}
	return added, nil
}
