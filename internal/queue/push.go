package queue

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/script"
	"github.com/redis/go-redis/v9"
)

// asynq v0.26 enqueues one task per round trip. These scripts do the work of its client
// for many tasks at once. The field "turn" of a task is our addition: it describes a
// waiting task without decoding it.
var (
	//go:embed wake.lua
	wakeLua string
	//go:embed push.lua
	pushLua string
	//go:embed push_later.lua
	pushLaterLua string

	pushNow   = redis.NewScript(wakeLua + pushLua)
	pushLater = redis.NewScript(pushLaterLua)
)

// Entry is a task to enqueue.
type Entry struct {
	Queue, ID, Model  string
	Message           []byte // see EncodeMessage
	Accepted, Expires time.Time
	StartAt           time.Time // the task is scheduled when that is in the future
}

// turn encodes the time of acceptance (microseconds), the deadline (seconds), and the
// model whose gate the task waits for.
func (e Entry) turn() string {
	return fmt.Sprintf("%d %d %s", e.Accepted.UnixMicro(), e.Expires.Unix(), e.Model)
}

// Pushed is the outcome of enqueuing one task.
type Pushed struct {
	Err      error
	Existing []byte // message of the task already queued under the id; nil for none
	sent     int    // how often the Redis client has sent the command
}

// inAcknowledgement is the reply of the scripts while a worker holds a tombstone.
const inAcknowledgement = 2

// Refused reports whether the task is certainly not in the queue: Redis refused the only
// try. The Redis client repeats a command after a lost connection. Then the first try may
// have run although the last was refused.
func (p Pushed) Refused() bool {
	var no redis.Error
	return (errors.As(p.Err, &no) || errors.Is(p.Err, errTombstone)) && p.sent <= 1
}

// counted is a command argument that counts how often the command is sent.
type counted struct {
	value string
	sent  int
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (a *counted) MarshalBinary() ([]byte, error) {
	a.sent++
	return []byte(a.value), nil
}

// A worker acknowledges a tombstone within milliseconds. Push waits for that at most
// tombstoneTries times tombstonePause.
const (
	tombstoneTries = 40
	tombstonePause = 50 * time.Millisecond
)

// errTombstone means that the id belonged to a task that has ended, and whose worker has
// not acknowledged it.
var errTombstone = errors.New("the last task with this id has not left the queue yet")

// Push enqueues tasks in one round trip. A task that is already queued counts as success:
// it is the same message sent again, or one with the same idempotency key. A push into an
// empty queue is announced to idle workers.
func Push(ctx context.Context, r redis.UniversalClient, entries []Entry) []Pushed {
	out := make([]Pushed, len(entries))
	left := make([]int, len(entries)) // indices of entries to push
	for i := range left {
		left[i] = i
	}
	for try := 0; ; try++ {
		some := make([]Entry, len(left))
		for k, i := range left {
			some[k] = entries[i]
		}
		var blocked []int
		for k, p := range pushOnce(ctx, r, some) {
			if out[left[k]] = p; errors.Is(p.Err, errTombstone) {
				blocked = append(blocked, left[k])
			}
		}
		if len(blocked) == 0 || try == tombstoneTries || ctx.Err() != nil {
			return out
		}
		left = blocked
		select {
		case <-ctx.Done():
		case <-time.After(tombstonePause):
		}
	}
}

// pushOnce is one try of Push.
func pushOnce(ctx context.Context, r redis.UniversalClient, entries []Entry) []Pushed {
	out := make([]Pushed, len(entries))
	ids := make([]*counted, len(entries))
	for i, e := range entries {
		ids[i] = &counted{value: e.ID}
	}
	now := time.Now()
	known := map[string]bool{}
	replies := script.All(ctx, r, len(entries), func(pipe redis.Pipeliner, run script.Run, i int) *redis.Cmd {
		e, id := entries[i], ids[i]
		if id.sent == 1 {
			id.sent = 0 // NOSCRIPT was the reply to the only try: nothing has run
		}
		if !known[e.Queue] {
			known[e.Queue] = true
			pipe.SAdd(ctx, queuesKey, e.Queue)
		}
		push, list, when := pushNow, pendingKey(e.Queue), now.UnixNano()
		if e.StartAt.After(now) {
			push, list, when = pushLater, scheduledKey(e.Queue), e.StartAt.Unix()
		}
		keys := []string{taskKey(e.Queue, e.ID), list, ModelsKey(e.Queue), DeadlinesKey(e.Queue)}
		return run(push, ctx, pipe, keys, e.Message, id, when, e.turn(), e.Model, e.Expires.Unix())
	})
	for i, reply := range replies {
		value, err := reply.Result()
		if message, ok := value.(string); ok {
			out[i].Existing = []byte(message)
		}
		if n, ok := value.(int64); ok && n == inAcknowledgement {
			err = errTombstone
		}
		out[i].Err, out[i].sent = err, ids[i].sent
	}
	return out
}
