package tasks_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestAThousandWaitsCostRedisAsMuchAsOne: they share a subscription, and all hear of the end
// at once. When the connection breaks, each looks for itself.
func TestAThousandWaitsCostRedisAsMuchAsOne(t *testing.T) {
	redis.SetLogger(silent{})
	costs := map[int]int{}
	for _, n := range []int{100, 1000} {
		synctest.Test(t, func(t *testing.T) {
			server, link := redistest.New(t), &redistest.Link{}
			r, store := server.Client(link), storage.NewMemory()
			client := tasks.NewClient(tasks.Config{Redis: r, Store: store})
			var requests []tasks.Request
			for range n {
				requests = append(requests, tasks.Request{Payload: tasks.Text{Prompt: "hi"}})
			}
			accepted := client.EnqueueMany(t.Context(), requests)
			var waits sync.WaitGroup
			for _, o := range accepted {
				require.NoError(t, o.Err)
				waits.Go(func() {
					result, err := client.Wait(t.Context(), o.ID)
					require.NoError(t, err)
					require.Equal(t, o.ID, result.ID)
				})
			}
			time.Sleep(time.Minute)
			before := server.Commands()
			time.Sleep(time.Minute)
			costs[n] = server.Commands() - before

			end := func(some []tasks.Outcome) {
				pipe := server.Client(nil).Pipeline()
				for _, o := range some {
					document := `{"id":"` + o.ID + `","status":"completed"}`
					require.NoError(t, store.Create(t.Context(), objects.ResultKey("default", o.ID), strings.NewReader(document), ""))
					done := taskstate.Finish(t.Context(), server.Client(nil), pipe, o.ID, taskstate.End{Status: "completed"})
					defer func() { require.NoError(t, done()) }()
				}
				_, _ = pipe.Exec(t.Context()) // done has the errors
			}
			end(accepted[:n/2])
			time.Sleep(100 * time.Millisecond)
			link.Cut() // the ends of the others are not heard
			end(accepted[n/2:])
			time.Sleep(3 * time.Second)
			link.Mend()
			ended := time.Now()
			waits.Wait()
			require.Less(t, time.Since(ended), 10*time.Second)
		})
	}
	require.Less(t, costs[1000], costs[100]*5/4, "commands a minute: %v", costs)
	require.Less(t, costs[1000], 1000, "commands a minute")
}

// TestTheEndOfATaskIsHeardAtOnce: a wait neither sleeps over the end nor keeps its
// subscription afterwards.
func TestTheEndOfATaskIsHeardAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.New(t).Client(nil)
		client := tasks.NewClient(tasks.Config{Redis: r, Store: storage.NewMemory()})
		accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		time.AfterFunc(30*time.Second+300*time.Millisecond, func() { finish(t, r, accepted.ID) })
		begun := time.Now()
		_, err = client.Wait(ctx, accepted.ID)
		require.ErrorIs(t, err, context.DeadlineExceeded, "there is no result in this bucket")
		require.Equal(t, time.Minute, time.Since(begun))
		synctest.Wait()
		require.False(t, taskstate.Listens(r))
		require.Zero(t, r.PubSubNumSub(t.Context(), taskstate.EndedChannel).Val()[taskstate.EndedChannel])
	})
}

// silent discards the Redis client's message about each failed dial.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func finish(t *testing.T, r *redis.Client, id string) {
	pipe := r.Pipeline()
	done := taskstate.Finish(t.Context(), r, pipe, id, taskstate.End{Status: "completed"})
	_, _ = pipe.Exec(t.Context()) // done has the error
	require.NoError(t, done())
}
