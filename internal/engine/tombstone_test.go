package engine_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// pause keeps workers from claiming tasks of a queue.
func (r *rig) pause(queue string) {
	r.t.Helper()
	require.NoError(r.t, r.redis.Set(r.t.Context(), "asynq:{"+queue+"}:paused", 1, 0).Err())
}

func (r *rig) unpause(queue string) {
	r.t.Helper()
	require.NoError(r.t, r.redis.Del(r.t.Context(), "asynq:{"+queue+"}:paused").Err())
}

// before is the number of living tasks in front of the ended ones. It exceeds the number
// checked for tombstones at a time.
const before = 600

// tombstoned is a queue of many living tasks, 21 ended ones and another living one.
func tombstoned(t *testing.T, story func(t *testing.T, r *rig, first, last string, ended []string)) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.pause("text:interactive")
		first := r.enqueue(tasks.Text{Prompt: "first"})
		for i := range before - 1 {
			r.enqueue(tasks.Text{Prompt: fmt.Sprint("living ", i)}, tasks.WithDurability(tasks.InRedis))
		}
		var ended []string
		for i := range 20 {
			ended = append(ended, r.enqueue(tasks.Text{Prompt: fmt.Sprint("late ", i)}, tasks.WithTimeToLive(10*time.Second), tasks.WithIdempotencyKey(fmt.Sprint("key ", i))))
		}
		unwanted := r.enqueue(tasks.Text{Prompt: "unwanted"})
		ended = append(ended, unwanted)
		last := r.enqueue(tasks.Text{Prompt: "last"})
		require.NoError(t, r.client.Cancel(t.Context(), unwanted))
		r.work()
		time.Sleep(time.Minute)
		require.Equal(t, len(ended), r.ended(ended))
		story(t, r, first, last, ended)
	})
}

func TestATaskThatEndsInTheMiddleOfAQueueIsNotSearchedFor(t *testing.T) {
	realtest.Long(t)
	tombstoned(t, func(t *testing.T, r *rig, first, last string, ended []string) {
		require.EqualValues(t, before+22, r.redis.LLen(t.Context(), textQueue+"pending").Val())
		require.Empty(t, r.keys("default/pending/"+ended[0]))
		require.Zero(t, r.redis.Exists(t.Context(), taskstate.CancelledKey).Val())
		require.EqualValues(t, before+1, r.redis.ZCard(t.Context(), queue.DeadlinesKey("text:interactive")).Val())
		list, err := r.client.List(t.Context(), tasks.ListFilter{Limit: 2000})
		require.NoError(t, err)
		require.Len(t, list, before+1, "an ended task is no task of the queue")
		r.unpause("text:interactive")
		require.Equal(t, tasks.Completed, r.wait(first).Status)
		require.Equal(t, tasks.Completed, r.wait(last).Status)
		require.Len(t, r.ai.Requests(), before+1)
		for _, id := range ended {
			require.Zero(t, r.redis.Exists(t.Context(), textQueue+"t:"+id).Val())
		}
		synctest.Wait() // until the last one is acknowledged
		require.Zero(t, r.redis.LLen(t.Context(), textQueue+"active").Val())
	})
}

func TestEndedTasksAtTheHeadOfAQueueGo(t *testing.T) {
	realtest.Long(t)
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		for i := range 1200 {
			r.enqueue(tasks.Text{Prompt: fmt.Sprint("late ", i)}, tasks.WithTimeToLive(10*time.Second), tasks.WithDurability(tasks.InRedis))
		}
		living := r.enqueue(tasks.Text{Prompt: "living"}, tasks.WithDurability(tasks.InRedis))
		r.work()
		time.Sleep(2 * time.Minute)
		require.Equal(t, []string{living}, r.redis.LRange(t.Context(), textQueue+"pending", 0, -1).Val())
		keys, err := r.redis.Keys(t.Context(), textQueue+"t:*").Result()
		require.NoError(t, err)
		require.Len(t, keys, 1)
	})
}

// A task enqueued again after its end is in the queue once, and its producer gets the
// result.
func TestATaskThatIsSentAgainTakesThePlaceOfItsTombstone(t *testing.T) {
	realtest.Long(t)
	tombstoned(t, func(t *testing.T, r *rig, first, last string, ended []string) {
		task := tasks.Task{
			Version: 1, ID: ended[3], Tenant: "default", Kind: tasks.KindText, Lane: tasks.Interactive, Model: texter,
			Payload: []byte(`{"prompt":"late 3"}`), CreatedAt: time.Now(), Deadline: time.Now().Add(time.Hour),
		}
		require.NoError(t, r.client.Requeue(t.Context(), task))
		require.EqualValues(t, before+22, r.redis.LLen(t.Context(), textQueue+"pending").Val())
		info, err := asynq.NewInspectorFromRedisClient(r.redis).GetTaskInfo("text:interactive", ended[3])
		require.NoError(t, err)
		require.Contains(t, string(info.Payload), "late 3")
		r.unpause("text:interactive")
		for _, id := range []string{first, last} {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		time.Sleep(10 * time.Second)
		require.Equal(t, tasks.CodeDeadlineExceeded, r.wait(ended[3]).Error.Code, "the first end stands")
		require.Len(t, r.ai.Requests(), before+1)
		require.Zero(t, r.redis.Exists(t.Context(), textQueue+"t:"+ended[3]).Val())
	})
}

// A worker of an earlier version that claims a tombstone finds the result of its task.
func TestATombstoneIsATaskOfAnEarlierVersion(t *testing.T) {
	task := tasks.Task{
		Version: 1, ID: "t_1", Tenant: "acme", Kind: tasks.KindText, Lane: tasks.Bulk, Model: texter, Digest: "d",
		Payload: []byte(`{"prompt":"` + longText(1000) + `"}`), Pending: true, Metadata: map[string]string{"a": "b"},
		CreatedAt: time.Now(), Deadline: time.Now().Add(time.Hour),
	}
	message, err := tasks.Tombstone(task)
	require.NoError(t, err)
	require.Less(t, len(message), 400)
	got, _, err := tasks.DecodeMessage(message)
	require.NoError(t, err)
	require.True(t, got.Ended)
	require.Equal(t, []string{task.ID, task.Tenant, task.Model, task.Digest}, []string{got.ID, got.Tenant, got.Model, got.Digest})
}
