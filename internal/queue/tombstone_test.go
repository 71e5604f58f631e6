package queue_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// takenTombstone leaves the tombstone of a task in the state of one that a worker has just
// taken. acknowledge ends that, as the worker does.
func takenTombstone(t *testing.T, client *redis.Client, id string) (acknowledge func()) {
	t.Helper()
	ctx, prefix := t.Context(), "asynq:{"+bulk+"}:"
	push(t, client, bulk, id)
	require.NoError(t, queue.Remove(ctx, client, bulk, id, "m", []byte("tombstone")))
	require.NoError(t, client.LMove(ctx, prefix+"pending", prefix+"active", "RIGHT", "LEFT").Err())
	require.NoError(t, client.HSet(ctx, prefix+"t:"+id, "state", "active").Err())
	return func() {
		client.LRem(ctx, prefix+"active", 0, id)
		client.Del(ctx, prefix+"t:"+id)
	}
}

func TestAnIDIsQueuedAgainOnceItsTombstoneIsAcknowledged(t *testing.T) {
	for name, start := range map[string]time.Duration{"now": 0, "later": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := redistest.Memory(t)
				acknowledge := takenTombstone(t, client, "t1")
				time.AfterFunc(time.Second, acknowledge)
				message := queue.EncodeMessage(bulk, "t1", "text", []byte("{}"))
				pushed := queue.Push(t.Context(), client, []queue.Entry{{
					Queue: bulk, ID: "t1", Model: "m", Message: message, Accepted: time.Now(), Expires: time.Now().Add(2 * time.Hour), StartAt: time.Now().Add(start),
				}})
				require.NoError(t, pushed[0].Err)
				require.Nil(t, pushed[0].Existing)
				time.Sleep(time.Second)
				found, err := queue.Find(t.Context(), client, bulk, []string{"t1"})
				require.NoError(t, err)
				require.True(t, found[0].Waiting(), "it is in the queue")
				require.Equal(t, message, found[0].Message)
			})
		})
	}
}

func TestAnIDWhoseTombstoneIsNotAcknowledgedIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := redistest.Memory(t)
		takenTombstone(t, client, "t1")
		begun := time.Now()
		pushed := queue.Push(t.Context(), client, []queue.Entry{{Queue: bulk, ID: "t1", Model: "m", Accepted: time.Now(), Expires: time.Now().Add(time.Hour)}})
		require.Error(t, pushed[0].Err)
		require.True(t, pushed[0].Refused(), "it is certainly not in the queue")
		require.Less(t, time.Since(begun), 5*time.Second)
	})
}
