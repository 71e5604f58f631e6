package tasks_test

import (
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// The bounds of each kind are guarantees: how long a call may take, how long a task
// without a deadline is tried, and how many calls may fail.
func TestEachKindHasItsBounds(t *testing.T) {
	type bounds struct {
		Field    string
		Timeout  time.Duration
		MaxAge   time.Duration
		Attempts int
	}
	want := map[tasks.Kind]bounds{
		tasks.KindTranscription: {"audio", 5 * time.Minute, 72 * time.Hour, 5},
		tasks.KindImage:         {"prompt", 5 * time.Minute, 72 * time.Hour, 4},
		tasks.KindTranslation:   {"text", 2 * time.Minute, 72 * time.Hour, 6},
		tasks.KindEmbedding:     {"texts", 2 * time.Minute, 72 * time.Hour, 6},
		tasks.KindText:          {"prompt", 10 * time.Minute, 72 * time.Hour, 5},
	}
	require.Len(t, tasks.Specs, len(want))
	for _, s := range tasks.Specs {
		got := bounds{s.Field, s.Timeout, s.MaxAge, s.Attempts}
		require.Equal(t, want[s.Kind], got, s.Kind)
		require.NotEmpty(t, s.Model(), s.Kind)
	}
	_, ok := tasks.SpecOf("poem")
	require.False(t, ok)
}

func TestATaskWithoutADeadlineIsTriedForItsKindsMaximumAgeFromItsStart(t *testing.T) {
	rdb := redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	for name, c := range map[string]struct {
		options []tasks.Option
		start   time.Duration
		dead    time.Duration
		list    string
	}{
		"now":               {nil, 0, 72 * time.Hour, "pending"},
		"later":             {[]tasks.Option{tasks.WithStart(time.Now().Add(5 * time.Hour))}, 5 * time.Hour, 77 * time.Hour, "scheduled"},
		"in the past":       {[]tasks.Option{tasks.WithStart(time.Now().Add(-time.Hour))}, 0, 72 * time.Hour, "pending"},
		"with its own":      {[]tasks.Option{tasks.WithDeadline(time.Now().Add(time.Hour))}, 0, time.Hour, "pending"},
		"later, by a delay": {[]tasks.Option{tasks.WithDelay(time.Hour), tasks.WithTimeToLive(2 * time.Hour)}, time.Hour, 2 * time.Hour, "scheduled"},
	} {
		accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, c.options...)
		require.NoError(t, err, name)
		task := queuedTask(t, rdb, accepted.ID)
		require.WithinDuration(t, time.Now().Add(c.dead), task.Deadline, time.Minute, name)
		if c.start == 0 {
			require.Zero(t, task.StartAt, name)
		} else {
			require.WithinDuration(t, time.Now().Add(c.start), task.StartAt, time.Minute, name)
		}
		require.Equal(t, c.list, rdb.HGet(t.Context(), "asynq:{text:interactive}:t:"+accepted.ID, "state").Val(), name)
	}
	_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithStart(time.Now().Add(2*time.Hour)), tasks.WithTimeToLive(time.Hour))
	require.ErrorContains(t, err, "deadline: lies before the start")
}
