package queue

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const forwardPage = 100 // tasks that one script moves

var (
	//go:embed forward.lua
	forwardLua string
	//go:embed announce.lua
	announceLua string

	forward  = redis.NewScript(wakeLua + forwardLua)
	announce = redis.NewScript(wakeLua + announceLua)
)

// Empty reports whether Redis holds no task of these queues, and none of the other keys.
// It costs one command, on a cluster one for each queue.
func Empty(ctx context.Context, r redis.UniversalClient, queues []string, others ...string) (bool, error) {
	return noneExists(ctx, r, queues, others, func(q string) []string {
		return []string{
			pendingKey(q), activeKey(q), leaseKey(q), scheduledKey(q), retryKey(q), archivedKey(q),
			DeadlinesKey(q), ModelsKey(q),
		}
	})
}

// noneExists reports whether no key exists. The keys of one queue are in one slot of a
// cluster; each of the others may be in any.
func noneExists(ctx context.Context, r redis.UniversalClient, queues, others []string, keysOf func(queue string) []string) (bool, error) {
	var groups [][]string
	for _, q := range queues {
		groups = append(groups, keysOf(q))
	}
	for _, key := range others {
		groups = append(groups, []string{key})
	}
	if _, cluster := r.(*redis.ClusterClient); !cluster {
		var all []string
		for _, g := range groups {
			all = append(all, g...)
		}
		groups = [][]string{all}
	}
	replies := make([]*redis.IntCmd, len(groups))
	pipe := r.Pipeline()
	for i, keys := range groups {
		replies[i] = pipe.Exists(ctx, keys...)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return false, fmt.Errorf("look for tasks: %w", err)
	}
	for _, reply := range replies {
		if reply.Val() > 0 {
			return false, nil
		}
	}
	return true, nil
}

// MoveDue moves scheduled tasks and retries that are due into their queues, and announces
// the queues that have pending tasks: an announcement may have been lost, and asynq's own
// clients announce nothing. It returns when the next task is due; zero when none is known.
func MoveDue(ctx context.Context, r redis.UniversalClient, queues map[string]Holds) (next time.Time, err error) {
	type delayed struct {
		queue, key string
		first      *redis.ZSliceCmd
	}
	var all []delayed
	pipe := r.Pipeline()
	for q, has := range queues {
		if has.Scheduled {
			all = append(all, delayed{q, scheduledKey(q), pipe.ZRangeWithScores(ctx, scheduledKey(q), 0, 0)})
		}
		if has.Retry {
			all = append(all, delayed{q, retryKey(q), pipe.ZRangeWithScores(ctx, retryKey(q), 0, 0)})
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && len(all) > 0 {
		return time.Time{}, fmt.Errorf("look for due tasks: %w", err)
	}
	now := time.Now()
	var errs []error
	for _, d := range all {
		first := d.first.Val()
		if len(first) == 0 {
			continue
		}
		due := time.Unix(int64(first[0].Score), 0)
		if !due.After(now) {
			errs = append(errs, forwardAll(ctx, r, d.queue, d.key, now))
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	for q, has := range queues {
		if !has.Pending {
			continue
		}
		id := "@" + strconv.FormatInt(now.UnixNano(), 36)
		if err := announce.Run(ctx, r, []string{pendingKey(q), pausedKey(q)}, id).Err(); err != nil {
			errs = append(errs, fmt.Errorf("announce %s: %w", q, err))
		}
	}
	return next, errors.Join(errs...)
}

// forwardAll moves all due tasks of one sorted set into their queue.
func forwardAll(ctx context.Context, r redis.UniversalClient, queue, key string, now time.Time) error {
	for ctx.Err() == nil {
		moved, err := forward.Run(ctx, r, []string{key, pendingKey(queue)}, now.Unix(), taskPrefix(queue), now.UnixNano()).Int()
		if err != nil {
			return fmt.Errorf("move the due tasks of %s: %w", queue, err)
		}
		if moved < forwardPage {
			return nil
		}
	}
	return nil
}
