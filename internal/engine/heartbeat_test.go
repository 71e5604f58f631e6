package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/liveness"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// another is a worker with its own link to Redis.
func (r *rig) another() *rig {
	o := *r
	o.link = &redistest.Link{}
	o.redis = r.server.Client(o.link)
	o.cfg.Redis = o.redis
	o.cfg.Gate = gate.New(gate.Config{Redis: o.redis, Pace: catalogued, Log: r.cfg.Log})
	o.stop = func() {}
	return &o
}

// A worker that sends its heartbeat late after an outage of Redis is not taken for dead.
// The others wait for the stabilisation.
func TestAWorkerThatShowsItselfLateAfterABreakKeepsItsTask(t *testing.T) {
	t.Parallel()
	for name, starts := range map[string]bool{"beside a worker that was there": false, "beside a worker that starts then": true} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				r.cfg.Kinds = []tasks.Kind{tasks.KindText}
				owner, other := r.another(), r.another()
				r.ai.Fault(workersaitest.Fault{Delay: 2 * time.Minute})
				owner.work()
				defer func() { owner.stop() }()
				id := r.enqueue(tasks.Text{Prompt: "hi"})
				time.Sleep(5 * time.Second)
				if !starts {
					other.work()
				}
				time.Sleep(20 * time.Second)
				require.Len(t, r.ai.Requests(), 1)
				owner.link.Cut()
				other.link.Cut()
				time.Sleep(40 * time.Second) // lease and heartbeat have expired
				other.link.Mend()
				if starts {
					other.work()
				}
				defer func() { other.stop() }()
				time.Sleep(8 * time.Second)
				owner.link.Mend()
				require.Equal(t, tasks.Completed, r.wait(id).Status)
				require.Len(t, r.ai.Requests(), 1)
				require.Empty(t, r.redis.HGet(t.Context(), taskstate.LiveKey(id), "crashes").Val())
			})
		})
	}
}

// A worker that was disconnected itself declares no other worker dead before it has
// registered again.
func TestAWorkerThatWasCutOffTakesNobodyForDead(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		owner, other := r.another(), r.another()
		r.ai.Fault(workersaitest.Fault{Delay: 2 * time.Minute})
		owner.work()
		defer func() { owner.stop() }()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		other.work()
		defer func() { other.stop() }()
		time.Sleep(30 * time.Second)
		owner.link.Cut()
		other.link.Cut()
		time.Sleep(40500 * time.Millisecond) // the other worker sends a heartbeat every three seconds, and has just failed to
		at := t.Context()
		r.redis.ZRem(at, textQueue+"lease", id)
		r.redis.LRem(at, textQueue+"active", 0, id)
		r.redis.HSet(at, textQueue+"t:"+id, "state", "pending")
		r.redis.RPush(at, textQueue+"pending", id)
		other.link.Mend() // and receives the task at once
		time.Sleep(time.Second)
		owner.link.Mend()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Len(t, r.ai.Requests(), 1)
		require.Empty(t, r.redis.HGet(t.Context(), taskstate.LiveKey(id), "crashes").Val())
	})
}

// Tasks older than an outage of Redis wait for the stabilisation. Younger tasks do not.
func TestATaskOlderThanABreakOfRedisWaitsForTheOthers(t *testing.T) {
	t.Parallel()
	const outage = "an outage without a loss"
	for name, lasts := range map[string]time.Duration{outage: 15 * time.Second, "another server": 0} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				r.cfg.Kinds = []tasks.Kind{tasks.KindText}
				r.work()
				time.Sleep(20 * time.Second)
				older := r.enqueue(tasks.Text{Prompt: "older"}, tasks.WithDelay(lasts+3*time.Second))
				r.link.Cut()
				time.Sleep(lasts)
				if lasts == 0 {
					r.server.Restore(r.server.Snapshot())
				}
				r.link.Mend()
				back := time.Now()
				time.Sleep(6 * time.Second) // the worker has noticed the outage
				younger := r.enqueue(tasks.Text{Prompt: "younger"})
				require.Equal(t, tasks.Completed, r.wait(younger).Status)
				require.Equal(t, tasks.Completed, r.wait(older).Status)
				called := map[string]time.Duration{}
				for _, q := range r.ai.Requests() {
					for _, text := range []string{"older", "younger"} {
						if strings.Contains(string(q.Body), text) {
							called[text] = q.At.Sub(back)
						}
					}
				}
				if name == outage { // a producer notices another server later than an outage
					require.Less(t, called["younger"], 8*time.Second)
				}
				require.GreaterOrEqual(t, called["older"], 10*time.Second)
				require.Less(t, called["older"], 25*time.Second)
			})
		})
	}
}

// Tasks that wait at the gate are not counted as crashed when their worker dies after a
// wipe.
func TestATaskThatOnlyWaitsIsNotBlamedAfterAWipeEither(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]tasks.Payload{
		"not claimed yet": tasks.Text{Prompt: "waits"}, "claimed": tasks.Image{Prompt: "waits"}, "in a group": tasks.Embedding{Texts: []string{"waits"}},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				kind := payload.Kind()
				r.cfg.Kinds = []tasks.Kind{kind}
				cut := &cable{}
				mortal := r.another()
				mortal.redis.AddHook(cut)
				mortal.cfg.Store = &deadStore{Store: r.store, cable: cut}
				closed := func(string, string) gate.Pace { return gate.Pace{Source: "settings"} }
				mortal.cfg.Gate = gate.New(gate.Config{Redis: mortal.redis, Pace: closed, Log: r.cfg.Log})
				mortal.work()
				defer func() { mortal.stop() }()
				id := r.enqueue(payload)
				time.Sleep(10 * time.Second)
				r.server.Wipe()
				time.Sleep(10 * time.Second)
				cut.cut(true)
				time.Sleep(time.Minute)
				r.work()
				require.Equal(t, tasks.Completed, r.wait(id).Status)
				require.Empty(t, r.redis.HGet(t.Context(), taskstate.LiveKey(id), "crashes").Val())
			})
		})
	}
}

// failingInfo makes a few commands named "info" fail on the way to Redis.
type failingInfo struct{ left int }

func (f *failingInfo) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *failingInfo) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "info" && f.left > 0 {
			f.left--
			cmd.SetErr(errors.New("i/o timeout"))
			return cmd.Err()
		}
		return next(ctx, cmd)
	}
}

func (f *failingInfo) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A failed check for a failover is repeated before the next task is claimed, even without
// a new connection.
func TestAFailedCheckForAFailoverIsRepeated(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		client, info := r.another(), &failingInfo{}
		client.redis.AddHook(info)
		found := 0
		process := liveness.New(client.redis, func(context.Context) error { found++; return nil }, func(context.Context) {})
		require.NoError(t, process.Start(t.Context()))
		require.NoError(t, client.redis.Ping(t.Context()).Err())
		require.NoError(t, process.CheckFailover(t.Context()))
		client.link.Cut()
		r.server.Restore(r.server.Snapshot())
		client.link.Mend()
		require.NoError(t, client.redis.Ping(t.Context()).Err()) // over a new connection
		info.left = 1
		require.Error(t, process.CheckFailover(t.Context()))
		require.NoError(t, process.CheckFailover(t.Context()))
		require.Equal(t, 1, found)
	})
}
