package handlers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// TestATaskThatAnotherProcessHasTakenMeanwhileIsNotCalledFor is what a Redis leads to
// that lost its last moments: a task whose worker waits at the gate is given out again.
func TestATaskThatAnotherProcessHasTakenMeanwhileIsNotCalledFor(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Gate = limit.New(limit.Config{
			Redis: r.redis, Pace: func(string, string) limit.Pace { return limit.Pace{PerMinute: 20, Source: "settings"} }, Log: r.cfg.Log,
		})
		first := r.enqueue(tasks.Text{Prompt: "first"})
		r.work()
		r.wait(first)
		id := r.enqueue(tasks.Text{Prompt: "second"})
		time.Sleep(time.Second)
		holder, err := r.redis.HGet(t.Context(), tasks.LiveKey(id), "holder").Result()
		require.NoError(t, err)
		require.NotEmpty(t, holder, "it waits for its turn")
		require.NoError(t, r.redis.HSet(t.Context(), tasks.LiveKey(id), "holder", "other").Err())
		require.NoError(t, r.redis.Set(t.Context(), "neuronmill:worker:other", 1, time.Minute).Err())
		time.Sleep(50 * time.Second)
		require.Len(t, r.ai.Requests(), 1, "the other one is at it")
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 1, result.Usage.Calls)
		require.Len(t, r.ai.Requests(), 2)
	})
}

// TestWhatADeadWorkerLeftBesideAnEndedTaskGoes covers both ends: a result by another
// run, and a failure after files were stored.
func TestWhatADeadWorkerLeftBesideAnEndedTaskGoes(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		done := r.enqueue(tasks.Image{Prompt: "done"})
		dropped := r.enqueue(tasks.Image{Prompt: "dropped"})
		for _, id := range []string{done, dropped} {
			r.put("default/tasks/"+id+"/answer.json", "{}")
			r.put("default/tasks/"+id+"/image.png", "half")
			require.NoError(t, r.redis.HSet(t.Context(), tasks.LiveKey(id), "calls", 1, "attempts", 1).Err())
		}
		r.put("default/tasks/"+done+"/result.json", `{"status":"completed"}`)
		require.NoError(t, r.client.Cancel(t.Context(), dropped))
		r.work()
		time.Sleep(10 * time.Second)
		require.Equal(t, "cancelled", r.wait(dropped).Error.Code)
		for _, key := range r.keys("default/tasks/") {
			require.False(t, strings.HasSuffix(key, "/answer.json"), key)
		}
		require.NotContains(t, r.keys("default/tasks/"), "default/tasks/"+dropped+"/image.png")
		require.Contains(t, r.keys("default/tasks/"), "default/tasks/"+done+"/image.png")
	})
}
