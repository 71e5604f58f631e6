package taskstate

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/script"
	"github.com/redis/go-redis/v9"
)

var (
	//go:embed claim.lua
	claimLua string
	//go:embed mark_idle.lua
	markIdleLua string
	//go:embed drop_owner.lua
	dropOwnerLua string
	//go:embed release.lua
	releaseLua string
	//go:embed register.lua
	registerLua string
	//go:embed renew.lua
	renewLua string

	claim     = redis.NewScript(claimLua)
	markIdle  = redis.NewScript(markIdleLua)
	dropOwner = redis.NewScript(dropOwnerLua)
	release   = redis.NewScript(releaseLua)
	register  = redis.NewScript(registerLua)
	renew     = redis.NewScript(renewLua)
)

// Owner is a process that owns tasks. While it lives, no other process runs them.
type Owner struct {
	Redis  redis.UniversalClient
	ID     string
	Memory string // name of Redis' memory, see package replid; empty if it has none
}

// Task identifies a record and says when it expires if the task does not end.
type Task struct {
	ID      string
	Expires time.Time
}

// Claim makes o the owner of a task that has none, and reads its counters. It returns the
// owner: o itself, or the process that has claimed the task before. A task whose workers
// died counts no crash until its owner claims it again as isolated. also adds further
// commands to the round trip, after the claim.
func (o Owner) Claim(ctx context.Context, t Task, isolated bool, also func(redis.Pipeliner)) (owner Owner, counters Counters, err error) {
	args := []any{o.ID, o.Memory, t.Expires.Unix(), 0}
	if isolated {
		args[3] = 1
	}
	for _, field := range CounterFields {
		args = append(args, field)
	}
	values, err := o.runWith(ctx, claim, t, also, args...).Slice()
	if err != nil {
		return Owner{}, Counters{}, err
	}
	owner.ID, _ = values[0].(string)
	owner.Memory, _ = values[1].(string)
	return owner, CountersOf(values[2:]), nil
}

// Release ends the ownership of a task that returns to the queue, and writes its counters.
// Nil counters stay as they are. Release leaves the task of another owner alone.
func (o Owner) Release(ctx context.Context, id string, c *Counters) error {
	args := []any{o.ID}
	if c != nil {
		args = append(args, c.fields()...)
	}
	return release.Run(ctx, o.Redis, []string{LiveKey(id)}, args...).Err()
}

// MarkIdle records that the owner of a task only waits for a permit, unless it has sent
// another call than the given number since.
func (o Owner) MarkIdle(ctx context.Context, id string, calls int) error {
	return markIdle.Run(ctx, o.Redis, []string{LiveKey(id)}, o.ID, calls).Err()
}

// CountCrash removes a dead owner and counts one crash, unless the task only waited. It
// returns the crashes, or 0 when none was counted.
func (o Owner) CountCrash(ctx context.Context, id, dead string) (int, error) {
	return dropOwner.Run(ctx, o.Redis, []string{LiveKey(id)}, dead, "").Int()
}

// DropStale removes a living owner whose claim is of a lost memory of Redis.
func (o Owner) DropStale(ctx context.Context, id string, stale Owner) error {
	return dropOwner.Run(ctx, o.Redis, []string{LiveKey(id)}, stale.ID, stale.Memory).Err()
}

// Running is a task that its owner runs.
type Running struct {
	Task
	Idle bool // it only waits for a permit
}

// Register writes claims again after Redis has lost its memory, in one round trip. It leaves
// a task alone that another process has claimed since.
func (o Owner) Register(ctx context.Context, running []Running) error {
	replies := script.All(ctx, o.Redis, len(running), func(pipe redis.Pipeliner, run script.Run, i int) *redis.Cmd {
		idle := 0
		if running[i].Idle {
			idle = 1
		}
		return run(register, ctx, pipe, []string{LiveKey(running[i].ID)}, o.ID, o.Memory, running[i].Expires.Unix(), idle)
	})
	var errs []error
	for _, reply := range replies {
		errs = append(errs, reply.Err())
	}
	return errors.Join(errs...)
}

// Renew replaces a damaged record, see IsDamaged. The new record assumes one call, so the
// task's next run looks for its result.
func (o Owner) Renew(ctx context.Context, t Task) error {
	return renew.Run(ctx, o.Redis, []string{LiveKey(t.ID)}, t.Expires.Unix()).Err()
}

// IsDamaged reports whether an error means that a record has the wrong Redis type. Reading
// it again would give the same error.
func IsDamaged(err error) bool {
	var server redis.Error
	return errors.As(err, &server) && strings.Contains(server.Error(), "WRONGTYPE")
}
