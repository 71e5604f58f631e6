package taskstate

import (
	"context"
	_ "embed" // the scripts
	"errors"

	"github.com/neuronmill/neuronmill/internal/script"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed claim_key.lua
	claimKeyLua string
	//go:embed correct_key.lua
	correctKeyLua string
	//go:embed cancel.lua
	cancelLua string

	claimKey   = redis.NewScript(claimKeyLua)
	correctKey = redis.NewScript(correctKeyLua)
	cancel     = redis.NewScript(cancelLua)
)

// KeyClaim is the claim of an idempotency key, which is the id of its task.
type KeyClaim struct {
	ID     string
	Digest string // of the task
	TTL    int    // seconds; a longer one of the record stays
}

// KeyOwner is the outcome of a KeyClaim.
type KeyOwner struct {
	Digest string // of the task that owned the key before; empty when none did
	Ended  bool   // that task has ended
	Err    error
}

// ClaimKeys claims idempotency keys in one round trip.
func ClaimKeys(ctx context.Context, r redis.UniversalClient, claims []KeyClaim) []KeyOwner {
	replies := script.All(ctx, r, len(claims), func(pipe redis.Pipeliner, run script.Run, i int) *redis.Cmd {
		return run(claimKey, ctx, pipe, []string{LiveKey(claims[i].ID)}, claims[i].Digest, claims[i].TTL)
	})
	out := make([]KeyOwner, len(claims))
	for i, reply := range replies {
		values, err := reply.Slice()
		if err == nil && len(values) != 2 {
			err = errors.New("unknown reply of Redis")
		}
		if out[i].Err = err; err == nil {
			out[i].Digest, _ = values[0].(string)
			out[i].Ended = values[1] == int64(1)
		}
	}
	return out
}

// CorrectKey moves an idempotency key from the task with the digest had to the one with the
// digest owner.
func CorrectKey(ctx context.Context, r redis.UniversalClient, id, had, owner string) error {
	return correctKey.Run(ctx, r, []string{LiveKey(id)}, had, owner).Err()
}

// Cancel marks a task as cancelled, for at least ttl seconds. It returns false when the
// task has ended.
func Cancel(ctx context.Context, r redis.UniversalClient, id string, ttl int) (bool, error) {
	n, err := cancel.Run(ctx, r, []string{LiveKey(id)}, ttl).Int()
	return n == 1, err
}

// State is the state of a task by its record.
type State struct {
	Owned bool // a process has claimed it
	Idle  bool // its owner only waits for a permit
	Ended bool
	// Status is how the task ended, as its worker wrote it; empty before the end.
	Status string
	// Digest is that of the task which owns the idempotency key; empty for none.
	Digest string
	// Result is the document of a task that a worker of an earlier version ended.
	Result string
}

// ReadState adds the command that reads a task's state to a pipeline, or runs it on a
// client. state returns the outcome.
func ReadState(ctx context.Context, r redis.Cmdable, id string) (state func() (State, error)) {
	reply := r.HMGet(ctx, LiveKey(id), "holder", "idle", "ended", "digest", "result")
	return func() (State, error) {
		values, err := reply.Result()
		if err != nil {
			return State{}, err
		}
		s := State{Owned: values[0] != nil, Idle: values[1] != nil, Ended: values[2] != nil}
		s.Status, _ = values[2].(string)
		s.Digest, _ = values[3].(string)
		s.Result, _ = values[4].(string)
		return s, nil
	}
}
