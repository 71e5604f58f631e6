package queue

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// Found is a task as its queue holds it.
type Found struct {
	ID      string
	Queue   string
	State   string // pending, scheduled, active, retry or archived; empty when the queue has no such task or only its tombstone
	Message []byte
	Turn    string // see Entry; it ends with a space and the model
}

// Waiting reports whether the task is in the queue and has no owner.
func (f Found) Waiting() bool { return f.State != "" && f.State != "active" }

// Find reads tasks of a queue in one round trip. The result has one element per id.
func Find(ctx context.Context, r redis.UniversalClient, queue string, ids []string) ([]Found, error) {
	replies := make([]*redis.SliceCmd, len(ids))
	pipe := r.Pipeline()
	for i, id := range ids {
		replies[i] = pipe.HMGet(ctx, taskKey(queue, id), "state", "msg", "ended", "turn")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("look at tasks of %s: %w", queue, err)
	}
	found := make([]Found, len(ids))
	for i, reply := range replies {
		state, _ := reply.Val()[0].(string)
		message, _ := reply.Val()[1].(string)
		turn, _ := reply.Val()[3].(string)
		if reply.Val()[2] != nil {
			state = ""
		}
		found[i] = Found{ids[i], queue, state, []byte(message), turn} //nolint:gosec // there are as many replies as ids
	}
	return found, nil
}

// Locate returns the queue that holds a task, tombstones included; empty when none does.
func Locate(ctx context.Context, r redis.UniversalClient, queues []string, id string) (string, error) {
	replies := make([]*redis.IntCmd, len(queues))
	pipe := r.Pipeline()
	for i, q := range queues {
		replies[i] = pipe.Exists(ctx, taskKey(q, id))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return "", fmt.Errorf("look for %s: %w", id, err)
	}
	i := slices.IndexFunc(replies, func(r *redis.IntCmd) bool { return r.Val() == 1 })
	if i < 0 {
		return "", nil
	}
	return queues[i], nil
}

// Message returns the message of a queued task; empty when there is none.
func Message(ctx context.Context, r redis.UniversalClient, queue, id string) ([]byte, error) {
	message, err := r.HGet(ctx, taskKey(queue, id), "msg").Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read the message of %s: %w", id, err)
	}
	return message, nil
}

// Pending returns the number of pending tasks of a queue.
func Pending(ctx context.Context, r redis.Cmdable, queue string) (int64, error) {
	return r.LLen(ctx, pendingKey(queue)).Result() //nolint:wrapcheck // the caller says what for
}

// Place is the position of a task in a list.
type Place struct {
	Listed bool // the task was found
	Ahead  int  // tasks before it
	Length int  // of the list
}

// Places is where a task stands among the deferred tasks of its model and among the pending
// tasks of its queue.
type Places struct {
	Deferred, Pending Place
	Active            int // active tasks of the queue
}

// PlaceOf finds a task. It searches at most limit pending tasks.
func PlaceOf(ctx context.Context, r redis.UniversalClient, queue, model, id string, limit int64) (Places, error) {
	pipe := r.Pipeline()
	rank := pipe.ZRank(ctx, DeferredKey(queue, model), id)
	deferred := pipe.ZCard(ctx, DeferredKey(queue, model))
	pos := pipe.LPos(ctx, pendingKey(queue), id, redis.LPosArgs{Rank: -1, MaxLen: limit})
	pending := pipe.LLen(ctx, pendingKey(queue))
	active := pipe.LLen(ctx, activeKey(queue))
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return Places{}, fmt.Errorf("find the place of %s: %w", id, err)
	}
	p := Places{
		Deferred: Place{Listed: rank.Err() == nil, Ahead: int(rank.Val()), Length: int(deferred.Val())},
		Pending:  Place{Listed: pos.Err() == nil, Length: int(pending.Val())},
		Active:   int(active.Val()),
	}
	if p.Pending.Listed { // workers take tasks from the right end
		p.Pending.Ahead = int(pending.Val() - 1 - pos.Val())
	}
	return p, nil
}

// searched is the longest list that placed searches for a task. In a longer list the
// search would block Redis for too long. Until the list is shorter, the message alone
// counts as proof that the task is queued.
const searched = 1000

//go:embed placed.lua
var placedLua string

var placed = redis.NewScript(placedLua)

// Missing returns, for each id, whether no queue holds the task. A message without an
// entry in a list of its queue is removed: Redis lost the other half of the write.
func Missing(ctx context.Context, r redis.UniversalClient, queues, ids []string) ([]bool, error) {
	states := make([]*redis.StringCmd, 0, len(ids)*len(queues))
	pending := make([]*redis.IntCmd, len(queues))
	pipe := r.Pipeline()
	for k, q := range queues {
		pending[k] = pipe.LLen(ctx, pendingKey(q))
	}
	for _, id := range ids {
		for _, q := range queues {
			states = append(states, pipe.HGet(ctx, taskKey(q, id), "state"))
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("look for the tasks in the queue: %w", err)
	}
	missing := make([]bool, len(ids))
	for i, id := range ids {
		missing[i] = true
		for k, q := range queues {
			state, err := states[i*len(queues)+k].Result()
			if errors.Is(err, redis.Nil) {
				continue
			}
			if err == nil && (state != "pending" || pending[k].Val() <= searched) {
				keys := []string{taskKey(q, id), activeKey(q), pendingKey(q), leaseKey(q), retryKey(q), scheduledKey(q), archivedKey(q)}
				var ok bool
				if ok, err = placed.Run(ctx, r, keys, id, searched).Bool(); err == nil && !ok {
					continue
				}
			}
			if err != nil {
				return nil, fmt.Errorf("look for %s in the queue: %w", id, err)
			}
			missing[i] = false
		}
	}
	return missing, nil
}

// Archived returns the ids of archived tasks of a queue, at most limit.
func Archived(ctx context.Context, r redis.UniversalClient, queue string, limit int64) ([]string, error) {
	ids, err := r.ZRange(ctx, archivedKey(queue), 0, limit-1).Result()
	if err != nil {
		return nil, fmt.Errorf("list the archived tasks of %s: %w", queue, err)
	}
	return ids, nil
}

// ForgetServers removes the entries of dead processes from asynq's sets of servers and
// workers. asynq removes them only when the servers are listed.
func ForgetServers(ctx context.Context, r redis.UniversalClient) error {
	past := fmt.Sprint(time.Now().Unix() - 1)
	pipe := r.Pipeline()
	pipe.ZRemRangeByScore(ctx, serversKey, "-inf", past)
	pipe.ZRemRangeByScore(ctx, workersKey, "-inf", past)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("forget dead servers: %w", err)
	}
	return nil
}

// Exists adds to a pipeline the question whether a queue holds a task, tombstones included:
// the reply is 1 or 0.
func Exists(ctx context.Context, pipe redis.Pipeliner, queue, id string) *redis.IntCmd {
	return pipe.Exists(ctx, taskKey(queue, id))
}
