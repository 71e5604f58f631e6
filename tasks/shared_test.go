package tasks_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// together accepts n tasks in one call and returns their ids.
func together(t *testing.T, client *tasks.Client, n int) []string {
	t.Helper()
	requests := make([]tasks.Request, n)
	for i := range requests {
		requests[i] = tasks.Request{Payload: tasks.Text{Prompt: fmt.Sprint("number ", i)}}
	}
	ids := make([]string, n)
	for i, out := range client.EnqueueMany(t.Context(), requests) {
		require.NoError(t, out.Err)
		require.Equal(t, tasks.InStore, out.Durability)
		ids[i] = out.ID
	}
	return ids
}

func endInBucket(t *testing.T, s storage.Store, id string) {
	t.Helper()
	require.NoError(t, s.Put(t.Context(), objects.ResultKey("default", id), strings.NewReader(`{"status":"completed"}`), ""))
}

func TestTasksOfOneCallShareARecord(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	outcomes := client.EnqueueMany(t.Context(), []tasks.Request{
		{Payload: tasks.Text{Prompt: "a"}},
		{Payload: tasks.Text{Prompt: "b"}, Options: []tasks.Option{tasks.WithIdempotencyKey("k")}},
		{Payload: tasks.Text{Prompt: strings.Repeat("long ", 10_000)}},
		{Payload: tasks.Text{Prompt: ""}},
		{Payload: tasks.Text{Prompt: "d"}, Options: []tasks.Option{tasks.WithDurability(tasks.InRedis)}},
	})
	record, index, ok := objects.SharedRecordOf(outcomes[2].ID)
	require.True(t, ok)
	require.Equal(t, 1, index)
	require.Equal(t, outcomes[0].ID, record.First())
	var keys []string
	for info := range store.List(t.Context(), "default/pending/", "") {
		keys = append(keys, info.Key)
	}
	require.ElementsMatch(t, []string{record.Key("default"), objects.PendingKey("default", outcomes[1].ID)}, keys)

	require.NoError(t, rdb.FlushAll(t.Context()).Err())
	for _, i := range []int{0, 1, 2} {
		info, err := client.Get(t.Context(), outcomes[i].ID)
		require.NoError(t, err, "found without Redis")
		require.Equal(t, outcomes[i].ID, info.ID)
	}
}

func TestTasksOfASharedRecordReturnAfterRedisIsLost(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	ids := together(t, client, 450)
	require.Equal(t, 3, records(t, store))
	n, err := client.Recover(t.Context(), tasks.Recovery{})
	require.NoError(t, err)
	require.Equal(t, tasks.Recovered{Records: 450, Queued: 450}, n)

	require.NoError(t, client.Cancel(t.Context(), ids[7]))
	endInBucket(t, store, ids[0])
	require.NoError(t, rdb.FlushAll(t.Context()).Err())
	n, err = client.Recover(t.Context(), tasks.Recovery{})
	require.NoError(t, err)
	require.Equal(t, tasks.Recovered{Records: 451, Returned: 449, Ended: 1}, n)
	require.EqualValues(t, 449, queued(t, rdb))
	cancelled, err := client.Get(t.Context(), ids[7])
	require.NoError(t, err)
	require.True(t, cancelled.Cancelled, "the cancellation survives the loss of Redis")
}

func TestASharedRecordStaysUntilAllItsTasksHaveEnded(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	ids := together(t, client, 3)
	record, _, _ := objects.SharedRecordOf(ids[0])
	ended := func(id string) {
		endInBucket(t, store, id)
		require.NoError(t, rdb.LRem(t.Context(), "asynq:{text:interactive}:pending", 0, id).Err())
		require.NoError(t, rdb.Del(t.Context(), "asynq:{text:interactive}:t:"+id).Err())
	}
	ended(ids[0])
	require.NoError(t, taskstate.AddSharedEnds(t.Context(), rdb, record.First(), 0))
	ended(ids[2]) // its worker died before it noted the end
	n, err := client.Recover(t.Context(), tasks.Recovery{})
	require.NoError(t, err)
	require.Equal(t, tasks.Recovered{Records: 3, Queued: 1, Ended: 2}, n)
	require.Equal(t, 1, records(t, store), "one of its tasks has not ended")

	ended(ids[1])
	_, err = client.Recover(t.Context(), tasks.Recovery{OlderThan: time.Minute})
	require.NoError(t, err)
	require.Equal(t, 1, records(t, store), "the record is young")
	n, err = client.Recover(t.Context(), tasks.Recovery{})
	require.NoError(t, err)
	require.Equal(t, tasks.Recovered{Records: 3, Ended: 3}, n)
	require.Zero(t, records(t, store))
}

func TestARefusedCallLeavesNoSharedRecord(t *testing.T) {
	server, store := redistest.New(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: server.Client(nil), Store: store})
	server.Refuse("OOM command not allowed when used memory > 'maxmemory'.")
	requests := []tasks.Request{{Payload: tasks.Text{Prompt: "a"}}, {Payload: tasks.Text{Prompt: "b"}}}
	for _, out := range client.EnqueueMany(t.Context(), requests) {
		require.Error(t, out.Err)
		require.NotErrorIs(t, out.Err, tasks.ErrUnknownOutcome)
	}
	require.Zero(t, records(t, store))
}

func TestADamagedLineOfASharedRecordHarmsNoOther(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	ids := together(t, client, 3)
	record, _, _ := objects.SharedRecordOf(ids[0])
	lines := strings.Split(string(readAll(t, store, record.Key("default"))), "\n")
	lines[1] = "{nonsense"
	require.NoError(t, store.Put(t.Context(), record.Key("default"), strings.NewReader(strings.Join(lines, "\n")), ""))
	require.NoError(t, rdb.FlushAll(t.Context()).Err())
	var damaged []string
	n, err := client.Recover(t.Context(), tasks.Recovery{Damaged: func(_ context.Context, tenant, id string, document []byte) error {
		damaged = append(damaged, tenant+"/"+id+" "+strings.TrimSpace(string(document)))
		return nil
	}})
	require.NoError(t, err)
	require.Equal(t, tasks.Recovered{Records: 3, Returned: 2, Damaged: 1}, n)
	require.Equal(t, []string{"default/" + ids[1] + " {nonsense"}, damaged)
}
