package monitor_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/limits"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func gates(r redis.UniversalClient) *gate.Gate {
	none := limits.Limits(nil)
	return gate.New(gate.Config{Redis: r, Pace: none.Pace, Total: none.Total, Log: slog.New(slog.DiscardHandler)})
}

func TestTheFleetListsTheWorkersThatAsynqLists(t *testing.T) {
	rdb := redistest.Memory(t)
	server := asynq.NewServerFromRedisClient(rdb, asynq.Config{
		Concurrency: 48, Queues: map[string]int{"text:interactive": 16, "text:bulk": 32}, LogLevel: asynq.FatalLevel,
	})
	require.NoError(t, server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { return nil })))
	m := &monitor.Monitor{Redis: rdb}
	var listed []monitor.Worker
	for len(listed) == 0 { // its first heartbeat is on its way
		var err error
		listed, err = m.Workers(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
	}
	fleet, err := m.Fleet(t.Context(), gates(rdb))
	require.NoError(t, err)
	require.Len(t, fleet.Workers, 1)
	require.Equal(t, listed[0].Started.Unix(), fleet.Workers[0].Started.Unix())
	listed[0].Started = fleet.Workers[0].Started
	require.Equal(t, listed, fleet.Workers)
	server.Shutdown()
}

func TestTheFleetCountsWhatWaitsAndKnowsTheOldest(t *testing.T) {
	rdb := redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	m, g := &monitor.Monitor{Redis: rdb}, gates(rdb)
	first, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "one"}, tasks.WithLane(tasks.Bulk))
	require.NoError(t, err)
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "two"}, tasks.WithLane(tasks.Bulk))
	require.NoError(t, err)
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "later"}, tasks.WithLane(tasks.Bulk), tasks.WithStart(time.Now().Add(time.Hour)))
	require.NoError(t, err)
	parked := time.Now().Add(-time.Hour).Truncate(time.Second)
	require.NoError(t, queue.Defer(t.Context(), rdb, "text:bulk", "@cf/zai-org/glm-4.7-flash", "t_parked", parked))

	f, err := m.Fleet(t.Context(), g)
	require.NoError(t, err)
	require.Equal(t, 3, f.Waiting())
	require.Equal(t, 1, f.DeferredAt("@cf/zai-org/glm-4.7-flash"))
	for _, q := range f.Queues {
		if q.Name() != "text:bulk" {
			require.Zero(t, q.Waiting())
			require.True(t, q.Oldest.IsZero())
			continue
		}
		require.Equal(t, []int{2, 0, 1}, []int{q.Pending, q.Active, q.Scheduled})
		require.True(t, parked.Equal(q.Oldest), "%v", q.Oldest)
	}
	require.NoError(t, rdb.Del(t.Context(), queue.DeferredKey("text:bulk", "@cf/zai-org/glm-4.7-flash")).Err())
	f, err = m.Fleet(t.Context(), g)
	require.NoError(t, err)
	accepted, err := client.Get(t.Context(), first.ID)
	require.NoError(t, err)
	for _, q := range f.Queues {
		if q.Name() == "text:bulk" {
			require.Equal(t, accepted.CreatedAt.UnixMicro(), q.Oldest.UnixMicro())
		}
	}
}

func TestTheLimitSaysHowManyWorkersAreOfUse(t *testing.T) {
	rdb := redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	m, g := &monitor.Monitor{Redis: rdb}, gates(rdb)
	idle, err := m.Scaling(t.Context(), g, g.PaceOf)
	require.NoError(t, err)
	require.Zero(t, idle.Workers)
	require.Equal(t, "nothing waits", idle.Reason)

	requests := make([]tasks.Request, 400)
	for i := range requests {
		requests[i] = tasks.Request{Payload: tasks.Text{Prompt: "Name three rivers"}}
	}
	for _, o := range client.EnqueueMany(t.Context(), requests) {
		require.NoError(t, o.Err)
	}
	spec, _ := tasks.SpecOf(tasks.KindText)
	model := spec.Model()
	require.NoError(t, g.Set(t.Context(), model, 300))
	busy, err := m.Scaling(t.Context(), g, g.PaceOf)
	require.NoError(t, err)
	require.Equal(t, 4, busy.Workers, "300 calls a minute are 50 calls of 10 s at a time, in workers of 16 slots")
	require.Equal(t, 4, busy.Kinds[tasks.KindText])
	require.Zero(t, busy.Kinds[tasks.KindImage])

	require.NoError(t, g.Set(t.Context(), model, 0))
	closed, err := m.Scaling(t.Context(), g, g.PaceOf)
	require.NoError(t, err)
	require.Equal(t, 1, closed.Workers, "one is wanted to notice that the gate opens")
	require.Equal(t, 1, closed.Kinds[tasks.KindText])
}

func TestTasksOverTheirBudgetAreReported(t *testing.T) {
	rdb := redistest.Memory(t)
	m, g := &monitor.Monitor{Redis: rdb}, gates(rdb)
	now := time.Now()
	require.NoError(t, queue.NoteWaiting(t.Context(), rdb, "text:bulk", "t_yesterday", now.Add(-24*time.Hour)))
	require.NoError(t, queue.NoteWaiting(t.Context(), rdb, "text:bulk", "t_today", now))
	r, err := m.Report(t.Context(), g)
	require.NoError(t, err)
	midnight := now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	require.Equal(t, "budget: caps of the day are spent until "+midnight.Format(time.RFC3339)+"; it goes on by itself.", r.Verdict)
	require.Equal(t, 1, r.Findings[0].Tasks)
}
