package queue

import (
	"context"
	_ "embed" // the scripts
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	leaseFor  = 30 * time.Second // length of asynq's leases
	leasePage = 100              // most expired leases of a queue that are read at once
)

var (
	//go:embed return_lease.lua
	returnLeaseLua string
	//go:embed relet.lua
	reletLua string

	returnLease = redis.NewScript(wakeLua + returnLeaseLua)
	relet       = redis.NewScript(reletLua)
)

// Expired returns the ids of active tasks whose lease ended before a time, by queue.
func Expired(ctx context.Context, r redis.UniversalClient, queues []string, before time.Time) (map[string][]string, error) {
	replies := make([]*redis.StringSliceCmd, len(queues))
	pipe := r.Pipeline()
	for i, q := range queues {
		replies[i] = pipe.ZRangeByScore(ctx, leaseKey(q), &redis.ZRangeBy{Min: "-inf", Max: fmt.Sprint(before.Unix()), Count: leasePage})
	}
	if _, err := pipe.Exec(ctx); err != nil && len(queues) > 0 {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	expired := map[string][]string{}
	for i, q := range queues {
		if ids := replies[i].Val(); len(ids) > 0 {
			expired[q] = ids
		}
	}
	return expired, nil
}

// ReturnLease requeues an active task at the head of its queue if its lease ended before a
// time, and reports whether it did. A task without a message is removed.
func ReturnLease(ctx context.Context, r redis.UniversalClient, queue, id string, before time.Time) (bool, error) {
	keys := []string{leaseKey(queue), activeKey(queue), pendingKey(queue), taskKey(queue, id)}
	moved, err := returnLease.Run(ctx, r, keys, id, before.Unix(), time.Now().UnixNano()).Int()
	if err != nil {
		return false, fmt.Errorf("put back %s: %w", id, err)
	}
	return moved == 1, nil
}

// Active returns the ids of all active tasks of a queue.
func Active(ctx context.Context, r redis.UniversalClient, queue string) ([]string, error) {
	ids, err := r.LRange(ctx, activeKey(queue), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("list the active tasks of %s: %w", queue, err)
	}
	return ids, nil
}

// Relet gives an active task without a lease a new one, and reports whether it did. A
// living owner renews the lease, else it expires. A task without a message is removed.
func Relet(ctx context.Context, r redis.UniversalClient, queue, id string) (bool, error) {
	keys := []string{leaseKey(queue), activeKey(queue), taskKey(queue, id)}
	n, err := relet.Run(ctx, r, keys, id, time.Now().Add(leaseFor).Unix()).Int()
	if err != nil {
		return false, fmt.Errorf("give %s a lease: %w", id, err)
	}
	return n == 1, nil
}
