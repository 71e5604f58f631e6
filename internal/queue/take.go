package queue

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// takingClient is the Redis client of an asynq server. It directs the server's takes and
// answers what no server needs to ask. All other commands pass unchanged.
type takingClient struct {
	redis.UniversalClient
	intake *Intake
	closed *redis.Client // see Subscribe
}

// Subscribe refuses the server's subscription to cancellations, which neuronmill does not
// use: a cancel is in the task's record. asynq v0.26 panics when the client of a subscription
// is closed, and its shutdown waits without limit for the reply to the first SUBSCRIBE.
func (c *takingClient) Subscribe(ctx context.Context, channels ...string) *redis.PubSub {
	return c.closed.Subscribe(ctx, channels...)
}

// refusedSubscription begins asynq's log line after Subscribe, every five seconds.
const refusedSubscription = "cannot subscribe to cancelation channel"

// EvalSha runs a script, see run.
func (c *takingClient) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return c.run(ctx, keys, args, func(keys []string, args []any) *redis.Cmd {
		return c.UniversalClient.EvalSha(ctx, sha, keys, args...)
	})
}

// Eval runs a script, see run.
func (c *takingClient) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return c.run(ctx, keys, args, func(keys []string, args []any) *redis.Cmd {
		return c.UniversalClient.Eval(ctx, script, keys, args...)
	})
}

// run recognises a script of asynq by its keys. A take becomes one from the queue that the
// intake chooses, or is answered as from an empty queue.
func (c *takingClient) run(ctx context.Context, keys []string, args []any, send func([]string, []any) *redis.Cmd) *redis.Cmd {
	switch {
	case isTake(keys, args):
		return c.intake.take(ctx, func(queue string) *redis.Cmd {
			return send([]string{pendingKey(queue), pausedKey(queue), activeKey(queue), leaseKey(queue)}, []any{args[0], taskPrefix(queue)})
		})
	case len(keys) == 1 && len(args) == 2 && hasSuffix(keys[0], "lease"):
		return answered(ctx, []any{}) // expired leases: the leader returns them
	case len(keys) == 1 && len(args) == 1 && hasSuffix(keys[0], "aggregation_sets"):
		return answered(ctx, int64(0)) // groups: there are none
	case len(keys) == 2 && len(args) == 4 && hasSuffix(keys[1], "pending"):
		return answered(ctx, int64(0)) // due tasks: the leader moves them
	}
	return send(keys, args)
}

// isTake reports whether a script is asynq's take of a task:
// KEYS pending, paused, active, lease; ARGV end of the lease, prefix of the tasks' keys.
func isTake(keys []string, args []any) bool {
	return len(keys) == 4 && len(args) == 2 &&
		hasSuffix(keys[0], "pending") && hasSuffix(keys[1], "paused") && hasSuffix(keys[2], "active") && hasSuffix(keys[3], "lease")
}

func hasSuffix(key, suffix string) bool {
	return strings.HasPrefix(key, "asynq:{") && strings.HasSuffix(key, "}:"+suffix)
}

func answered(ctx context.Context, value any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetVal(value)
	return cmd
}

// nothing is the answer of an empty queue.
func nothing(ctx context.Context) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(redis.Nil)
	return cmd
}
