package queue

import (
	"context"
	_ "embed" // the script
	"fmt"

	"github.com/neuronmill/neuronmill/internal/script"
	"github.com/redis/go-redis/v9"
)

//go:embed holds.lua
var holdsLua string

var holds = redis.NewScript(holdsLua)

// Holds says which lists of a queue have members.
type Holds struct {
	Pending, Scheduled, Retry, Leases, Deadlines, Models bool
}

// held returns the keys behind the fields of Holds, in their order.
func held(queue string) []string {
	return []string{
		pendingKey(queue), scheduledKey(queue), retryKey(queue), leaseKey(queue), DeadlinesKey(queue), ModelsKey(queue),
	}
}

// Watch looks at many queues, most of which are empty. While the same lists have members as
// before, a look costs two commands. The zero value is ready for use by one goroutine.
type Watch struct {
	queues map[string]Holds // as of the last look; nil before it
	known  []string         // keys that existed then
}

// Look returns what each queue holds. Queues without any list are left out.
func (w *Watch) Look(ctx context.Context, r redis.UniversalClient, queues []string) (map[string]Holds, error) {
	same, err := w.same(ctx, r, queues)
	if err != nil || same {
		return w.queues, err
	}
	replies := script.All(ctx, r, len(queues), func(pipe redis.Pipeliner, run script.Run, i int) *redis.Cmd {
		return run(holds, ctx, pipe, held(queues[i]))
	})
	w.queues, w.known = nil, nil
	seen := map[string]Holds{}
	var known []string
	for i, q := range queues {
		digits, err := replies[i].Text()
		if err != nil {
			return nil, fmt.Errorf("look at the queue %s: %w", q, err)
		}
		for k, key := range held(q) {
			if digits[k] == '1' {
				known = append(known, key)
			}
		}
		has := func(k int) bool { return digits[k] == '1' }
		if h := (Holds{has(0), has(1), has(2), has(3), has(4), has(5)}); h != (Holds{}) {
			seen[q] = h
		}
	}
	w.queues, w.known = seen, known
	return seen, nil
}

// same reports whether exactly the keys of the last look exist. On a cluster it is not
// known, because the keys of the queues are on several nodes.
func (w *Watch) same(ctx context.Context, r redis.UniversalClient, queues []string) (bool, error) {
	if _, cluster := r.(*redis.ClusterClient); cluster || w.queues == nil {
		return false, nil
	}
	var all []string
	for _, q := range queues {
		all = append(all, held(q)...)
	}
	pipe := r.Pipeline()
	exist, still := pipe.Exists(ctx, all...), &redis.IntCmd{}
	if len(w.known) > 0 {
		still = pipe.Exists(ctx, w.known...)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return false, fmt.Errorf("look at the queues: %w", err)
	}
	return exist.Val() == int64(len(w.known)) && still.Val() == exist.Val(), nil
}
