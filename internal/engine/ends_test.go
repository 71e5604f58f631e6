package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/maintenance"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestExpiredTasksEndWhereverTheyWait(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 1, Code: 3021, Header: http.Header{"Retry-After": {"900"}}})
		first := r.enqueue(tasks.Text{Prompt: "closes the gate"})
		time.Sleep(5 * time.Second)
		parked := r.enqueue(tasks.Text{Prompt: "parked"}, tasks.WithTimeToLive(time.Minute))
		time.Sleep(50 * time.Second)
		start := time.Now()
		// Scheduled directly beyond its deadline: Enqueue would refuse it.
		accepted := r.enqueue(tasks.Image{Prompt: "later"}, tasks.WithDelay(30*time.Second), tasks.WithTimeToLive(40*time.Second))
		require.NoError(t, r.redis.ZAddXX(t.Context(), "asynq:{image:interactive}:scheduled", redisZ(start.Add(time.Hour), accepted)).Err())
		for _, id := range []string{parked, accepted} {
			ctx, cancel := context.WithTimeout(t.Context(), 160*time.Second)
			result, err := r.client.Wait(ctx, id)
			cancel()
			require.NoError(t, err)
			require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
		}
		require.Less(t, time.Since(start), 160*time.Second)
		require.Equal(t, tasks.Completed, r.wait(first).Status)
	})
}

func TestACancelledTaskEndsInAnyState(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		// The gate is closed for long: one task is deferred, and one waits behind a long
		// queue.
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 1, Code: 3021, Header: http.Header{"Retry-After": {"900"}}})
		r.enqueue(tasks.Text{Prompt: "closes the gate"})
		time.Sleep(5 * time.Second)
		parked := r.enqueue(tasks.Text{Prompt: "parked"})
		time.Sleep(5 * time.Second)
		scheduled := r.enqueue(tasks.Text{Prompt: "later"}, tasks.WithDelay(time.Hour))
		// Two parts: the first is in a call at the time of the cancel, the second is not
		// sent.
		texts := make([]string, 150)
		for i := range texts {
			texts[i] = fmt.Sprint("text ", i)
		}
		r.ai.Fault(workersaitest.Fault{Kind: "embedding", Delay: 30 * time.Second})
		active := r.enqueue(tasks.Embedding{Texts: texts})
		time.Sleep(5 * time.Second)
		for _, id := range []string{parked, scheduled, active} {
			require.NoError(t, r.client.Cancel(t.Context(), id))
		}
		start := time.Now()
		for _, id := range []string{parked, scheduled} {
			result := r.wait(id)
			require.NotNil(t, result.Error)
			require.Equal(t, tasks.CodeCancelled, result.Error.Code)
			require.Less(t, time.Since(start), 10*time.Second)
		}
		require.Equal(t, tasks.CodeCancelled, r.wait(active).Error.Code)
		require.Less(t, time.Since(start), 40*time.Second)
		require.Len(t, r.calls("@cf/baai/bge-base-en-v1.5"), 1)
		time.Sleep(10 * time.Second)
		require.Zero(t, r.redis.Exists(t.Context(), taskstate.CancelledKey).Val())
		require.Empty(t, r.keys("default/dead/"), "what was wanted is no failure to look after")
	})
}

func TestACancelOutlivesTheLossOfRedis(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		require.NoError(t, r.client.Cancel(t.Context(), id))
		require.NoError(t, r.redis.FlushAll(t.Context()).Err())
		time.Sleep(2 * time.Minute)
		r.work()
		require.Equal(t, tasks.CodeCancelled, r.wait(id).Error.Code)
		require.Empty(t, r.ai.Requests())
	})
}

func TestTheFirstResultStands(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 20 * time.Second})
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		// Another run, whose worker seemed dead, ends first.
		first := `{"id":"` + id + `","status":"completed","metadata":{"run":"first"}}`
		require.NoError(t, r.store.Create(t.Context(), objects.ResultKey("default", id), strings.NewReader(first), "application/json"))
		time.Sleep(time.Minute)
		require.Len(t, r.ai.Requests(), 1)
		require.JSONEq(t, first, string(r.read(objects.ResultKey("default", id))))
		require.Empty(t, r.keys("default/pending/"))
	})
}

func TestAFailureThatComesSecondIsNotListed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 20 * time.Second, Code: 5006})
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		first := `{"id":"` + id + `","status":"completed"}`
		require.NoError(t, r.store.Create(t.Context(), objects.ResultKey("default", id), strings.NewReader(first), "application/json"))
		time.Sleep(time.Minute)
		require.Empty(t, r.keys("default/dead/"))
	})
}

// TestAFailureThatComesSecondAndDiesIsNotListedForLong: a worker wrote the dead-letter
// entry of a task that another worker had completed, and was killed before it noticed.
func TestAFailureThatComesSecondAndDiesIsNotListedForLong(t *testing.T) {
	for name, forget := range map[string]bool{"and the task comes again": false, "and redis forgets the task": true} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				id := r.enqueue(tasks.Text{Prompt: "hi"})
				r.put(objects.ResultKey("default", id), `{"id":"`+id+`","status":"completed"}`)
				r.put(objects.FailedTaskKey("default", id), "{}")
				r.put(objects.DeadKey("default", id), "{}")
				r.redis.HSet(t.Context(), taskstate.LiveKey(id), "ended", 1)
				if forget {
					r.server.Wipe()
				}
				r.work()
				time.Sleep(3 * time.Minute)
				require.Empty(t, r.keys("default/dead/"))
				require.Empty(t, r.keys("default/pending/"))
				require.Equal(t, []string{objects.ResultKey("default", id)}, r.keys("default/tasks/"))
				require.Empty(t, r.ai.Requests())
			})
		})
	}
}

// TestADeadlineThatPassesBeforeATaskIsTakenAgainForgetsNothing: the worker died after it
// stored a checkpoint, and the deadline passes before a new worker claims the task.
func TestADeadlineThatPassesBeforeATaskIsTakenAgainForgetsNothing(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Image{Prompt: "a mill"}, tasks.WithTimeToLive(5*time.Second))
		r.put("default/tasks/"+id+"/answer.json", "{}")
		r.put("default/tasks/"+id+"/image.jpg", "picture")
		r.redis.HSet(t.Context(), taskstate.LiveKey(id), "calls", 1, "attempts", 1)
		r.server.Restore(r.server.Snapshot()) // the worker waits for the stabilisation before it claims the task
		r.work()
		result := r.wait(id)
		require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
		require.Equal(t, []int{1, 1}, []int{result.Usage.Calls, result.Usage.Unsettled})
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{objects.ResultKey("default", id), objects.FailedTaskKey("default", id)}, r.keys("default/tasks/"))
	})
}

func TestATaskWhoseDeadlinePassedInTheQueueSendsNoCall(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(20*time.Second))
		time.Sleep(25 * time.Second)
		// Another process is the leader, else its housekeeping may end the task first.
		require.NoError(t, r.redis.Set(t.Context(), maintenance.LockKey, "another", time.Hour).Err())
		r.work()
		result := r.wait(id)
		require.NotNil(t, result.Error)
		require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
		require.Empty(t, r.ai.Requests())
	})
}

// The queue cannot store an error with invalid UTF-8: its task would stay with a worker
// that has already released it.
func TestABrokenByteInAnErrorDoesNotKeepItsTask(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Store = &cutText{Store: r.store}
		r.work()
		id := r.enqueue(tasks.Text{Prompt: strings.Repeat("long ", 8000)}) // its input is in the bucket
		start := time.Now()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Less(t, time.Since(start), time.Minute)
	})
}

// cutText is a store whose first read of an input fails with a text that is cut inside a
// UTF-8 character.
type cutText struct {
	storage.Store
	failed atomic.Bool
}

func (s *cutText) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if strings.Contains(key, "/input") && s.failed.CompareAndSwap(false, true) {
		return nil, errors.New("503: caf\xc3")
	}
	return s.Store.Get(ctx, key)
}
