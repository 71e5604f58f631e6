package queue

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed remove.lua
	removeLua string
	//go:embed sweep_head.lua
	sweepHeadLua string
	//go:embed set_aside.lua
	setAsideLua string

	remove    = redis.NewScript(removeLua)
	sweepHead = redis.NewScript(sweepHeadLua)
	setAside  = redis.NewScript(setAsideLua)
)

// Remove deletes an ended task from its queue, at a cost independent of the queue's
// length. A pending task becomes a tombstone: the given message replaces its own, and the
// worker that takes it acknowledges it. An active task is left to its owner.
func Remove(ctx context.Context, r redis.UniversalClient, queue, id, model string, tombstone []byte) error {
	keys := []string{
		taskKey(queue, id), DeadlinesKey(queue), DeferredKey(queue, model),
		scheduledKey(queue), retryKey(queue), archivedKey(queue),
	}
	if err := remove.Run(ctx, r, keys, id, tombstone).Err(); err != nil {
		return fmt.Errorf("remove %s from %s: %w", id, queue, err)
	}
	return nil
}

const (
	sweepPage  = 500 // ids that one script reads, to bound how long it blocks Redis
	sweepPages = 200 // most scripts for one queue in one run
)

// SweepTombstones removes tombstones at the heads of queues, so that workers need not take
// them.
func SweepTombstones(ctx context.Context, r redis.UniversalClient, queues []string) error {
	var errs []error
	for _, q := range queues {
		errs = append(errs, sweep(ctx, r, q))
	}
	return errors.Join(errs...)
}

func sweep(ctx context.Context, r redis.UniversalClient, queue string) error {
	for range sweepPages {
		removed, err := sweepHead.Run(ctx, r, []string{pendingKey(queue)}, sweepPage, taskPrefix(queue)).Int()
		if err != nil {
			return fmt.Errorf("remove tombstones of %s: %w", queue, err)
		}
		if removed < sweepPage/2 {
			return nil
		}
	}
	return nil
}

// SetAside moves a damaged message out of its queue and keeps it for a week under the key
// that it returns.
func SetAside(ctx context.Context, r redis.UniversalClient, queue, id string) (key string, err error) {
	key = damagedKey(queue, id)
	if err := setAside.Run(ctx, r, []string{leaseKey(queue), activeKey(queue), taskKey(queue, id), key}, id).Err(); err != nil {
		return "", fmt.Errorf("set %s aside: %w", id, err)
	}
	return key, nil
}
