// Package script runs Lua scripts of Redis many at a time.
package script

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Run queues a script in a pipeline: (*redis.Script).EvalSha or Eval.
type Run func(s *redis.Script, ctx context.Context, pipe redis.Scripter, keys []string, args ...any) *redis.Cmd

// All runs a script for each of n items in one round trip. If Redis does not know the
// script yet, a second round trip sends it. Each reply has its own error.
func All(ctx context.Context, r redis.UniversalClient, n int, send func(pipe redis.Pipeliner, run Run, i int) *redis.Cmd) []*redis.Cmd {
	replies := make([]*redis.Cmd, n)
	pipe := r.Pipeline()
	for i := range n {
		replies[i] = send(pipe, (*redis.Script).EvalSha, i)
	}
	_, _ = pipe.Exec(ctx) // each command keeps its own error
	pipe = r.Pipeline()
	for i := range n {
		if redis.HasErrorPrefix(replies[i].Err(), "NOSCRIPT") {
			replies[i] = send(pipe, (*redis.Script).Eval, i)
		}
	}
	if pipe.Len() > 0 {
		_, _ = pipe.Exec(ctx)
	}
	return replies
}
