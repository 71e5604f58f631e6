package tasks_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// deadOf collects the dead letters that Dead returns.
func deadOf(t *testing.T, c *tasks.Client, f tasks.DeadLetterFilter) []tasks.DeadLetter {
	t.Helper()
	var all []tasks.DeadLetter
	for d, err := range c.DeadLetters(t.Context(), f) {
		require.NoError(t, err)
		all = append(all, d)
	}
	return all
}

func TestDeadLettersAreListedInFullAndFiltered(t *testing.T) {
	store := storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: store})
	for i := range 70 { // more than two pages
		d := tasks.DeadLetter{ID: fmt.Sprintf("t_%03d", i), Kind: tasks.KindText, Error: tasks.TaskError{Code: tasks.CodeAttemptsExhausted}}
		if i%2 == 1 {
			d.Kind, d.Error.Code = tasks.KindImage, "request_refused"
		}
		document, err := json.Marshal(d)
		require.NoError(t, err)
		require.NoError(t, store.Put(t.Context(), objects.DeadKey("default", d.ID), strings.NewReader(string(document)), ""))
	}
	require.NoError(t, store.Put(t.Context(), objects.DeadKey("other", "t_x"), strings.NewReader("{}"), ""))
	require.Len(t, deadOf(t, client, tasks.DeadLetterFilter{}), 70)
	require.Len(t, deadOf(t, client, tasks.DeadLetterFilter{Kind: tasks.KindImage}), 35)
	require.Len(t, deadOf(t, client, tasks.DeadLetterFilter{Code: tasks.CodeAttemptsExhausted}), 35)
	require.Len(t, deadOf(t, client, tasks.DeadLetterFilter{Kind: tasks.KindImage, Limit: 3}), 3)
	require.Equal(t, "t_033", deadOf(t, client, tasks.DeadLetterFilter{})[33].ID)
	require.Equal(t, "t_034", deadOf(t, client, tasks.DeadLetterFilter{After: "t_033"})[0].ID)

	require.NoError(t, store.Put(t.Context(), objects.DeadKey("default", "t_001"), strings.NewReader("{"), ""))
	require.NoError(t, store.Put(t.Context(), objects.DeadKey("default", "t_002"), strings.NewReader(`{"id":"t_1"}`), ""))
	all := deadOf(t, client, tasks.DeadLetterFilter{})
	require.Len(t, all, 70)
	for _, i := range []int{1, 2} {
		require.Equal(t, fmt.Sprintf("t_%03d", i), all[i].ID)
		require.Equal(t, tasks.CodeEntryDamaged, all[i].Error.Code)
	}
	for d, err := range client.DeadLetters(t.Context(), tasks.DeadLetterFilter{}) {
		require.NoError(t, err)
		require.Equal(t, "t_000", d.ID)
		break
	}
}

func TestADroppedDeadLetterLeavesNothingButItsResult(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: strings.Repeat("long ", 10_000)})
	require.NoError(t, err)
	task := queuedTask(t, rdb, accepted.ID)
	document, err := json.Marshal(task)
	require.NoError(t, err)
	for _, key := range []string{objects.ResultKey("default", task.ID), objects.DeadKey("default", task.ID)} {
		require.NoError(t, store.Put(t.Context(), key, strings.NewReader(`{"id":"`+task.ID+`"}`), ""))
	}
	require.NoError(t, store.Put(t.Context(), objects.FailedTaskKey("default", task.ID), strings.NewReader(string(document)), ""))
	require.NoError(t, store.Delete(t.Context(), objects.PendingKey("default", task.ID)))
	require.NoError(t, client.Drop(t.Context(), task.ID))
	require.Equal(t, []string{objects.ResultKey("default", task.ID)}, keysOf(t, store, ""))
	require.ErrorIs(t, client.Drop(t.Context(), task.ID), tasks.ErrNotFound)
	require.ErrorIs(t, client.Drop(t.Context(), "../x"), tasks.ErrNotFound)
}

func TestARetryIsOneTaskHoweverOftenItIsAskedFor(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	failed := failedTask(t, rdb, store, client)
	first, err := client.Retry(t.Context(), failed)
	require.NoError(t, err)
	require.Empty(t, deadOf(t, client, tasks.DeadLetterFilter{}))
	second, err := client.Retry(t.Context(), failed)
	require.NoError(t, err)
	require.Equal(t, first.ID, second.ID)
	require.True(t, second.Existing)
	require.Equal(t, map[string]string{"retry_of": failed}, queuedTask(t, rdb, first.ID).Metadata)

	require.NoError(t, store.Put(t.Context(), objects.FailedTaskKey("default", failed), strings.NewReader(`{"v":1}`), ""))
	_, err = client.Retry(t.Context(), failed)
	require.ErrorContains(t, err, "decode the task")
	_, err = client.Retry(t.Context(), "t_unknown")
	require.ErrorIs(t, err, tasks.ErrNotFound)
}
