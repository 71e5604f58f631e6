package tasks_test

import (
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestAClientReportsWhatItAcceptsAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []tasks.Event
		client := tasks.NewClient(tasks.Config{
			Redis: redistest.Memory(t), Store: storage.NewMemory(), Tenant: "acme",
			Observer: func(e tasks.Event) { events = append(events, e); panic("an observer fails no task") },
		})
		out := client.EnqueueMany(t.Context(), []tasks.Request{
			{Payload: tasks.Text{Prompt: "hi"}, Options: []tasks.Option{tasks.WithIdempotencyKey("a"), tasks.WithLane(tasks.Bulk)}},
			{Payload: tasks.Text{}}, // not valid
		})
		require.NoError(t, out[0].Err)
		require.Error(t, out[1].Err)
		again, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("a"))
		require.NoError(t, err)
		require.True(t, again.Existing)

		require.Len(t, events, 1)
		e := events[0]
		require.Equal(t, tasks.Event{
			Type: tasks.EventAccepted, Time: e.CreatedAt, CreatedAt: e.CreatedAt,
			ID: out[0].ID, Tenant: "acme", Kind: tasks.KindText, Lane: tasks.Bulk, Model: out[0].Model,
		}, e)
	})
}
