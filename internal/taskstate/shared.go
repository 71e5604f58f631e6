package taskstate

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// SharedEndsKey returns the Redis key of the tasks of a shared pending record that have
// ended and left nothing behind: a set of their indexes. first is the record's first id.
// The bucket has precedence: where Redis lost the set, it says which tasks have ended, at
// more requests.
func SharedEndsKey(first string) string { return "neuronmill:record:{" + first + "}" }

// SharedEndsTTL is how long the set outlives its last change. It is longer than the longest
// time between two runs of the reconciler.
const SharedEndsTTL = 6 * time.Hour

// AddSharedEnds adds tasks of a shared record that have ended, by their indexes.
func AddSharedEnds(ctx context.Context, r redis.Cmdable, first string, indexes ...any) error {
	if len(indexes) == 0 {
		return nil
	}
	key := SharedEndsKey(first)
	_, err := r.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.SAdd(ctx, key, indexes...)
		pipe.Expire(ctx, key, SharedEndsTTL)
		return nil
	})
	if err != nil {
		return fmt.Errorf("note the ended tasks of a record: %w", err)
	}
	return nil
}

// SharedEnds returns the indexes of the ended tasks of a shared record that Redis knows.
func SharedEnds(ctx context.Context, r redis.Cmdable, first string) (map[int]bool, error) {
	members, err := r.SMembers(ctx, SharedEndsKey(first)).Result()
	if err != nil {
		return nil, fmt.Errorf("read the ended tasks of a record: %w", err)
	}
	ended := map[int]bool{}
	for _, m := range members {
		if i, err := strconv.Atoi(m); err == nil {
			ended[i] = true
		}
	}
	return ended, nil
}
