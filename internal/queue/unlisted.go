package queue

import (
	"context"
	_ "embed" // the script
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed requeue_unlisted.lua
var requeueUnlistedLua string

var requeueUnlisted = redis.NewScript(wakeLua + requeueUnlistedLua)

// unlistedPage is how many keys of Redis one page of a scan looks at.
const unlistedPage = 1000

var taskKeyForm = regexp.MustCompile(`^asynq:\{(.+)\}:t:(.+)$`)

// UnlistedScan looks for tasks that have a message but are in no list of their queue, where
// no worker would ever find them. Redis leaves such a task when a crash cuts what it wrote.
// The zero value is ready for use, by one goroutine.
type UnlistedScan struct {
	cursors map[string]uint64 // of each Redis server, by address
}

// Requeue scans the next page of Redis' keys and requeues the tasks that it finds. It
// returns the state of each of these tasks, by id, and whether the scan has further pages. A
// queue with more than 1,000 pending tasks is left out: a search in it would block Redis.
func (s *UnlistedScan) Requeue(ctx context.Context, r redis.UniversalClient, queues []string) (requeued map[string]string, more bool, err error) {
	found, err := s.scan(ctx, r)
	if err != nil {
		return nil, false, err
	}
	for _, cursor := range s.cursors {
		more = more || cursor != 0
	}
	requeued = map[string]string{}
	for queue, ids := range found {
		if !slices.Contains(queues, queue) {
			continue
		}
		keys := []string{
			pendingKey(queue), activeKey(queue), DeadlinesKey(queue),
			leaseKey(queue), retryKey(queue), scheduledKey(queue), archivedKey(queue),
		}
		args := append([]any{taskPrefix(queue), time.Now().UnixNano(), searched}, ids...)
		reply, err := requeueUnlisted.Run(ctx, r, keys, args...).StringSlice()
		if err != nil {
			return requeued, more, fmt.Errorf("look for unlisted tasks of %s: %w", queue, err)
		}
		for pair := range slices.Chunk(reply, 2) {
			requeued[pair[0]] = pair[1]
		}
	}
	return requeued, more, nil
}

// scan returns the ids of the tasks on the next page of each Redis server, by queue.
func (s *UnlistedScan) scan(ctx context.Context, r redis.UniversalClient) (map[string][]any, error) {
	if s.cursors == nil {
		s.cursors = map[string]uint64{}
	}
	var mu sync.Mutex
	found := map[string][]any{}
	page := func(ctx context.Context, server redis.Cmdable, address string) error {
		mu.Lock()
		defer mu.Unlock()
		keys, next, err := server.Scan(ctx, s.cursors[address], "asynq:{*}:t:*", unlistedPage).Result()
		if err != nil {
			return fmt.Errorf("scan the tasks of all queues: %w", err)
		}
		s.cursors[address] = next
		for _, key := range keys {
			if parts := taskKeyForm.FindStringSubmatch(key); parts != nil {
				found[parts[1]] = append(found[parts[1]], parts[2])
			}
		}
		return nil
	}
	if cluster, ok := r.(*redis.ClusterClient); ok {
		err := cluster.ForEachMaster(ctx, func(ctx context.Context, server *redis.Client) error { return page(ctx, server, server.Options().Addr) })
		return found, err //nolint:wrapcheck // page has said what for
	}
	return found, page(ctx, r, "")
}
