package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// alone runs a story in synthetic time, without a worker at first.
func alone(t *testing.T, story func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() {
			if r.stop != nil {
				r.stop()
			}
		}()
		story(t, r)
	})
}

const textQueue = "asynq:{text:interactive}:"

// died leaves a task in the state of a worker that was killed while it ran the task. The
// lease has expired.
func (r *rig) died(queue, id string) {
	r.t.Helper()
	ctx := r.t.Context()
	prefix := "asynq:{" + queue + "}:"
	n, err := r.redis.LRem(ctx, prefix+"pending", 1, id).Result()
	require.NoError(r.t, err)
	require.EqualValues(r.t, 1, n)
	require.NoError(r.t, r.redis.LPush(ctx, prefix+"active", id).Err())
	require.NoError(r.t, r.redis.HSet(ctx, prefix+"t:"+id, "state", "active").Err())
	require.NoError(r.t, r.redis.ZAdd(ctx, prefix+"lease", redisZ(time.Now().Add(-time.Minute), id)).Err())
	require.NoError(r.t, r.redis.HSet(ctx, taskstate.LiveKey(id), "holder", "a dead one", "calls", 1, "attempts", 1).Err())
}

// cable is the connection to Redis. While it is cut every command fails as if no server
// listened.
type cable struct {
	mu  sync.Mutex
	off bool
}

func (c *cable) cut(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

func (c *cable) gone() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return errors.New("dial tcp: connection refused")
	}
	return nil
}

func (c *cable) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *cable) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := c.gone(); err != nil {
			time.Sleep(100 * time.Millisecond) // the client's pause between its tries
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (c *cable) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := c.gone(); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

// refuses is a Redis that answers writes with an error reply.
type refuses struct {
	word string
	only string // refuse only commands with this in an argument
	mu   sync.Mutex
	now  bool
}

func (f *refuses) on(now bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

func (f *refuses) hit(cmd redis.Cmder) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.now {
		return false
	}
	if f.only != "" {
		return slices.ContainsFunc(cmd.Args(), func(a any) bool { return strings.Contains(fmt.Sprint(a), f.only) })
	}
	switch cmd.Name() {
	case "evalsha", "eval", "hincrby", "hset", "set", "zadd", "lpush":
		return true
	}
	return false
}

func (f *refuses) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *refuses) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if f.hit(cmd) {
			cmd.SetErr(refusal(f.word))
			return cmd.Err()
		}
		return next(ctx, cmd)
	}
}

func (f *refuses) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, f.hit) {
			return next(ctx, cmds)
		}
		for _, c := range cmds {
			c.SetErr(refusal(f.word))
		}
		return refusal(f.word)
	}
}

type refusal string

func (e refusal) Error() string { return string(e) }
func (refusal) RedisError()     {}
