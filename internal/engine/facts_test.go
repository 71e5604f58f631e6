package engine_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// asynq's own reactions to a lost reply, a lost lease or a restart would use up attempts
// or pay twice. Each test covers one such behaviour.

// fact runs a story of text tasks. The queue is polled rarely, because synthetic minutes
// pass.
func fact(t *testing.T, story func(t *testing.T, r *rig)) {
	t.Helper()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		story(t, r)
	})
}

// loseOne loses the first reply to a request that contains all the words.
func (r *rig) loseOne(words ...string) (met *atomic.Bool) {
	met = &atomic.Bool{}
	r.link.Lose(func(request []byte) redistest.Fate {
		for _, w := range words {
			if !bytes.Contains(request, []byte(w)) {
				return redistest.Delivered
			}
		}
		if met.Swap(true) {
			return redistest.Delivered
		}
		return redistest.ReplyLost
	})
	return met
}

func TestATaskWhoseTakeGotNoReplyComesBackWithAllItsAttempts(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		lost := r.loseOne("{text:interactive}:pending", "{text:interactive}:paused")
		start := time.Now()
		r.work()
		result := r.wait(id)
		require.True(t, lost.Load())
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 1, result.Attempts)
		require.Less(t, time.Since(start), time.Minute)
		require.Len(t, r.ai.Requests(), 1)
		r.stop()
	})
}

func TestAnEnqueueWithoutReplyIsAcceptedOnce(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		lost := r.loseOne("LPUSH", "{text:interactive}:pending")
		accepted, err := r.client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
		require.NoError(t, err, "its own id is no conflict")
		require.True(t, lost.Load())
		r.work()
		require.Equal(t, tasks.Completed, r.wait(accepted.ID).Status)
		require.Len(t, r.ai.Requests(), 1)
		r.stop()
	})
}

func TestALostAcknowledgementCostsNoSecondCall(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		// The network fails when the answer is stored, and stays down until after the
		// lease.
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 2 * time.Second})
		time.Sleep(2 * time.Second)
		r.link.Cut()
		time.Sleep(100 * time.Second)
		r.link.Mend()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		time.Sleep(3 * time.Minute)
		require.Len(t, r.ai.Requests(), 1)
		require.Zero(t, r.redis.Exists(t.Context(), "asynq:{text:interactive}:t:"+id).Val(), "it is acknowledged in the end")
		r.stop()
	})
}

func TestALeaseThatIsTakenAwayCostsNoSecondCall(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: time.Minute})
		other := *r
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(10 * time.Second)
		other.work()
		// A recoverer with a clock far ahead does this.
		queue := "asynq:{text:interactive}:"
		require.NoError(t, r.redis.ZRem(t.Context(), queue+"lease", id).Err())
		require.NoError(t, r.redis.LRem(t.Context(), queue+"active", 1, id).Err())
		require.NoError(t, r.redis.ZAdd(t.Context(), queue+"retry", redis.Z{Score: float64(time.Now().Unix()), Member: id}).Err())
		require.NoError(t, r.redis.HSet(t.Context(), queue+"t:"+id, "state", "retry").Err())
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		time.Sleep(2 * time.Minute)
		require.Len(t, r.ai.Requests(), 1)
		r.stop()
		other.stop()
	})
}

func TestFiveRestartsDuringACallCostOneCall(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: time.Minute})
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		var stopping sync.WaitGroup
		for range 5 {
			w := *r
			w.work()
			time.Sleep(8 * time.Second)
			stopping.Go(w.stop)
		}
		stopping.Wait()
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 1, result.Attempts)
		require.Len(t, r.ai.Requests(), 1)
	})
}

func TestAStoppingWorkerWaitsForACallWhoseLeaseItLost(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 90 * time.Second})
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		r.link.Cut()
		time.Sleep(45 * time.Second) // its lease has expired: the queue's server no longer waits for it
		r.link.Mend()
		r.stop()
		require.Contains(t, r.keys("default/tasks/"), objects.ResultKey("default", id), "the answer is stored before the worker is gone")
		require.Len(t, r.ai.Requests(), 1)
	})
}

func TestAWorkerThatWasAwaySendsNoCallForATaskThatWasTakenFromIt(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		r.paced(20)
		r.work()
		r.enqueue(tasks.Text{Prompt: "the first one"})
		time.Sleep(time.Second)
		second := r.enqueue(tasks.Text{Prompt: "the second one"})
		time.Sleep(time.Second) // it waits for a permit
		key := taskstate.LiveKey(second)
		require.Len(t, r.ai.Requests(), 1)
		// Meanwhile the fleet took this worker for dead, and another worker claimed the
		// task.
		require.NoError(t, r.redis.HSet(t.Context(), key, "holder", "another").Err())
		require.NoError(t, r.redis.Set(t.Context(), "neuronmill:worker:another", 1, time.Minute).Err())
		time.Sleep(10 * time.Second)
		for _, q := range r.ai.Requests() {
			require.NotContains(t, string(q.Body), "the second one", "the other may have paid for it")
		}
		require.Equal(t, tasks.Completed, r.wait(second).Status, "the other has died without doing it")
		r.stop()
	})
}
