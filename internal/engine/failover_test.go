package engine_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// TestATaskThatRedisGivesOutTwiceIsPaidOnce: after a failover that lost the last second,
// less than a heartbeat, the queue delivers a task again while its living owner runs it.
func TestATaskThatRedisGivesOutTwiceIsPaidOnce(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"to a worker that was there": false, "to a worker that starts then": true} {
		t.Run(name, func(t *testing.T) { alone(t, func(t *testing.T, r *rig) { givenOutTwice(t, r, late) }) })
	}
}

// other returns a rig for a second worker, with a link of its own to the same Redis.
func (r *rig) other() *rig {
	other := *r
	other.link = &redistest.Link{}
	other.redis = r.server.Client(other.link)
	other.cfg.Redis = other.redis
	other.cfg.Gate = gate.New(gate.Config{Redis: other.redis, Pace: catalogued, Log: r.cfg.Log})
	return &other
}

func givenOutTwice(t *testing.T, r *rig, late bool) {
	other := r.other()
	r.ai.Fault(workersaitest.Fault{Delay: 8 * time.Second})
	r.work()
	time.Sleep(10 * time.Second)
	id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithDelay(2*time.Second))
	time.Sleep(time.Second)
	before := r.server.Snapshot()
	require.Eventually(t, func() bool { return len(r.ai.Requests()) == 1 }, 5*time.Second, 100*time.Millisecond)
	if !late {
		other.work()
		time.Sleep(time.Second)
	}
	r.link.Cut()
	other.link.Cut()
	r.server.Restore(before)
	other.link.Mend() // it connects before the first worker
	if late {
		other.work()
	}
	defer func() { other.stop() }()
	time.Sleep(4 * time.Second) // without the failover check it would claim the task now
	r.link.Mend()
	require.Equal(t, tasks.Completed, r.wait(id).Status)
	time.Sleep(time.Minute)
	require.Len(t, r.ai.Requests(), 1)
}

// heads counts how often the bucket is asked for a result.
type heads struct {
	storage.Store
	asked atomic.Int32
}

func (s *heads) Head(ctx context.Context, key string) (storage.Info, error) {
	if strings.HasSuffix(key, "/result.json") {
		s.asked.Add(1)
	}
	return s.Store.Head(ctx, key)
}

// TestTheBucketIsAskedForAResultWhereRedisMayHaveForgottenIt: a task that this Redis has
// known since it was enqueued costs no such request.
func TestTheBucketIsAskedForAResultWhereRedisMayHaveForgottenIt(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]struct {
		between func(r *rig, id string)
		asked   int32
	}{
		"nothing happened": {func(*rig, string) {}, 0},
		"redis was replaced": {func(r *rig, _ string) {
			r.link.Cut()
			r.server.Restore(r.server.Snapshot())
			r.link.Mend()
		}, 1},
		"a while went by":    {func(*rig, string) { time.Sleep(11 * time.Minute) }, 1},
		"a call was counted": {func(r *rig, id string) { r.redis.HSet(r.t.Context(), taskstate.LiveKey(id), "calls", 1) }, 1},
		"a run ended it":     {func(r *rig, id string) { r.redis.HSet(r.t.Context(), taskstate.LiveKey(id), "ended", 1) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				store := &heads{Store: r.store}
				r.cfg.Store = store
				id := r.enqueue(tasks.Text{Prompt: "hi"})
				story.between(r, id)
				if name == "a run ended it" {
					r.put("default/tasks/"+id+"/result.json", `{"status":"completed"}`)
				}
				r.work()
				time.Sleep(20 * time.Second)
				r.wait(id)
				require.Equal(t, story.asked, store.asked.Load())
			})
		})
	}
}

// TestAKeyThatRedisForgotIsPaidForOnce: the second producer has no bucket to ask.
func TestAKeyThatRedisForgotIsPaidForOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		boxless := tasks.NewClient(tasks.Config{Redis: r.redis})
		for range 2 {
			accepted, err := boxless.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
			require.NoError(t, err)
			require.Equal(t, tasks.Completed, r.wait(accepted.ID).Status)
			time.Sleep(time.Second)
			r.server.Wipe()
			time.Sleep(time.Minute)
		}
		require.Len(t, r.ai.Requests(), 1)
	})
}

// TestATaskIsPaidOnceHoweverRedisForgetsIt: FLUSHALL keeps the replication id and all
// connections. A client whose answer was lost repeats its request after it, and a worker
// may have decided before it that a task is new.
func TestATaskIsPaidOnceHoweverRedisForgetsIt(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(*redistest.Server){"restart": (*redistest.Server).Wipe, "FLUSHALL": (*redistest.Server).Flush} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				id := r.enqueue(tasks.Text{Prompt: "hi"})
				name := tasks.Queue(tasks.KindText, tasks.Interactive)
				accepted := []byte(r.redis.HGet(t.Context(), "asynq:{"+name+"}:t:"+id, "msg").Val())
				require.NotEmpty(t, accepted)
				r.work()
				require.Equal(t, tasks.Completed, r.wait(id).Status)
				for _, after := range []time.Duration{0, time.Second, 5 * time.Second, time.Minute} {
					forget(r.server)
					time.Sleep(after)
					again := queue.Push(t.Context(), r.redis, []queue.Entry{{
						Queue: name, ID: id, Message: accepted, Accepted: time.Now(), Expires: time.Now().Add(time.Hour),
					}})
					require.NoError(t, again[0].Err)
					time.Sleep(time.Minute)
					require.Len(t, r.ai.Requests(), 1, "%v after Redis was emptied", after)
				}
			})
		})
	}
}

// TestAClaimThatARestartBroughtBackIsDropped: a Redis that lost its last writes says again
// that a worker runs a task which that worker has returned to the queue. The worker lives
// and is busy, so no other one would ever run the task.
func TestAClaimThatARestartBroughtBackIsDropped(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.busyAfterwards(workersaitest.Fault{Status: 502})
		before := r.server.Snapshot()
		time.Sleep(5 * time.Second)
		require.Len(t, r.ai.Requests(), 2, "the worker is busy with the second task")
		r.link.Cut()
		r.server.Restore(before)
		r.link.Mend()
		result := r.doneByAnother(id)
		require.Equal(t, 2, result.Attempts, "nobody died")
		require.Len(t, r.ai.Requests(), 3)
	})
}

// TestATaskIsReleasedOnceRedisIsBack: its worker could not return the task to the queue
// while Redis was away, lives on, and is busy with another one.
func TestATaskIsReleasedOnceRedisIsBack(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.busyAfterwards(workersaitest.Fault{Code: 3040})
		r.link.Cut()
		time.Sleep(15 * time.Second)
		r.link.Mend()
		require.Eventually(t, func() bool { return len(r.ai.Requests()) == 2 }, time.Minute, time.Second, "the worker is busy with the second task")
		result := r.doneByAnother(id)
		require.Equal(t, []int{1, 2, 0}, []int{result.Attempts, result.Usage.Calls, result.Usage.Unsettled})
	})
}

// busyAfterwards has a worker of one slot begin a task whose first call meets a fault after
// five seconds. Then the worker is busy with another task for minutes.
func (r *rig) busyAfterwards(first workersaitest.Fault) (id string) {
	r.cfg.Concurrency = 1
	r.work()
	time.Sleep(15 * time.Second)
	first.Contains, first.To, first.Delay = "first", 1, 5*time.Second
	r.ai.Fault(first)
	r.ai.Fault(workersaitest.Fault{Contains: "second", Delay: 8 * time.Minute})
	id = r.enqueue(tasks.Text{Prompt: "first"})
	time.Sleep(time.Second)
	r.enqueue(tasks.Text{Prompt: "second"})
	time.Sleep(time.Second)
	return id
}

// doneByAnother starts a second worker and waits until it has completed a task.
func (r *rig) doneByAnother(id string) *tasks.Result {
	other := r.other()
	other.work()
	defer func() { other.stop() }()
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	defer cancel()
	result, err := r.client.Wait(ctx, id)
	require.NoError(r.t, err)
	require.Equal(r.t, tasks.Completed, result.Status)
	return result
}
