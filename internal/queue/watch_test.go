package queue_test

import (
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/stretchr/testify/require"
)

func TestAWatchSeesEachListThatComesOrGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		client := s.Client(nil)
		var w queue.Watch
		look := func() map[string]queue.Holds {
			t.Helper()
			seen, err := w.Look(t.Context(), client, []string{interactive, bulk})
			require.NoError(t, err)
			return seen
		}
		require.Empty(t, look())
		push(t, client, bulk, "t1")
		all := queue.Holds{Pending: true, Deadlines: true, Models: true}
		require.Equal(t, map[string]queue.Holds{bulk: all}, look())
		require.NoError(t, client.Rename(t.Context(), "asynq:{text:bulk}:pending", "asynq:{text:interactive}:pending").Err())
		require.Equal(t, map[string]queue.Holds{bulk: {Deadlines: true, Models: true}, interactive: {Pending: true}}, look(), "as many keys, but others")
		before := s.Commands()
		look()
		require.Equal(t, 2, s.Commands()-before, "nothing has changed")
		require.NoError(t, client.FlushAll(t.Context()).Err())
		require.Empty(t, look())
	})
}
