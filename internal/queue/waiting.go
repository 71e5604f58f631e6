package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// waitingKey is a sorted set: the tasks that wait for their budget as "queue id", by the time
// in milliseconds at which they began to. Each is a retry that is due on the next day.
const waitingKey = "neuronmill:budgets:waiting"

const (
	waitingFor  = 25 * time.Hour // longer than any task waits
	waitingPage = 500
)

// NoteWaiting notes that a task begins to wait for its budget. The caller then returns it to
// asynq as a retry.
func NoteWaiting(ctx context.Context, r redis.UniversalClient, queue, id string, now time.Time) error {
	pipe := r.Pipeline()
	pipe.ZAdd(ctx, waitingKey, redis.Z{Score: float64(now.UnixMilli()), Member: queue + " " + id})
	pipe.ZRemRangeByScore(ctx, waitingKey, "-inf", strconv.FormatInt(now.Add(-waitingFor).UnixMilli(), 10))
	pipe.Expire(ctx, waitingKey, waitingFor)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("note that %s waits: %w", id, err)
	}
	return nil
}

// CountWaiting counts the tasks that began to wait for their budget since a time, those
// included that were cancelled meanwhile.
func CountWaiting(ctx context.Context, r redis.UniversalClient, since time.Time) (int, error) {
	n, err := r.ZCount(ctx, waitingKey, strconv.FormatInt(since.UnixMilli(), 10), "+inf").Result()
	if err != nil {
		return 0, fmt.Errorf("count the tasks that wait for their budget: %w", err)
	}
	return int(n), nil
}

// ReleaseWaiting makes the retries due of all tasks that waited for their budget at a time.
// A task that has not returned to asynq yet stays noted.
func ReleaseWaiting(ctx context.Context, r redis.UniversalClient, at time.Time) error {
	until := strconv.FormatInt(at.UnixMilli(), 10)
	for kept := int64(0); ctx.Err() == nil; {
		members, err := r.ZRangeByScore(ctx, waitingKey, &redis.ZRangeBy{Min: "-inf", Max: until, Offset: kept, Count: waitingPage}).Result()
		if err != nil {
			return fmt.Errorf("list the tasks that wait for their budget: %w", err)
		}
		moved := make([]*redis.IntCmd, len(members))
		pipe := r.Pipeline()
		for i, m := range members {
			queue, id, _ := strings.Cut(m, " ")
			moved[i] = pipe.ZAddArgs(ctx, retryKey(queue), redis.ZAddArgs{XX: true, Ch: true, Members: []redis.Z{{Score: float64(time.Now().Unix()), Member: id}}})
		}
		if _, err := pipe.Exec(ctx); err != nil && len(members) > 0 {
			return fmt.Errorf("release tasks: %w", err)
		}
		var done []any
		for i, m := range members {
			if moved[i].Val() > 0 {
				done = append(done, m)
			}
		}
		kept += int64(len(members) - len(done))
		if len(done) > 0 {
			if err := r.ZRem(ctx, waitingKey, done...).Err(); err != nil {
				return fmt.Errorf("forget released tasks: %w", err)
			}
		}
		if len(members) < waitingPage {
			return nil
		}
	}
	return context.Cause(ctx)
}
