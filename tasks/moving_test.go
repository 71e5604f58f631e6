package tasks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// between runs a func before the n-th round trip of a client.
type between struct {
	trips, n int
	change   func()
}

func (b *between) step() {
	if b.trips++; b.trips == b.n {
		b.change()
	}
}

func (b *between) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b *between) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { b.step(); return next(ctx, cmd) }
}

func (b *between) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { b.step(); return next(ctx, cmds) }
}

// whileReading runs a story once for each round trip of a reader, with a change right
// before that round trip.
func whileReading(t *testing.T, story func(t *testing.T, writer, reader *tasks.Client, admin *redis.Client, s storage.Store, b *between)) {
	t.Helper()
	for n := 1; ; n++ {
		server, store, b := redistest.New(t), storage.NewMemory(), &between{n: n, change: func() {}}
		admin, client := server.Client(nil), server.Client(nil)
		client.AddHook(b)
		story(t, tasks.NewClient(tasks.Config{Redis: admin, Store: store}), tasks.NewClient(tasks.Config{Redis: client, Store: store}), admin, store, b)
		if t.Failed() {
			t.Logf("with a change before round trip %d", n)
			return
		}
		if b.trips < n {
			return
		}
	}
}

// The task ends while it is read, which takes the mark of its cancellation away.
func TestACancelledTaskIsNeverShownAsOneThatIsNot(t *testing.T) {
	whileReading(t, func(t *testing.T, writer, reader *tasks.Client, admin *redis.Client, s storage.Store, b *between) {
		ctx := t.Context()
		r, err := writer.Enqueue(ctx, tasks.Text{Prompt: "hi"}, tasks.WithDelay(time.Hour))
		require.NoError(t, err)
		require.NoError(t, writer.Cancel(ctx, r.ID))
		b.change = func() {
			document, err := json.Marshal(tasks.Result{ID: r.ID, Kind: tasks.KindText, Status: tasks.Failed, Error: &tasks.TaskError{Code: tasks.CodeCancelled}})
			require.NoError(t, err)
			require.NoError(t, s.Put(ctx, objects.ResultKey("default", r.ID), strings.NewReader(string(document)), ""))
			require.NoError(t, admin.HSet(ctx, taskstate.LiveKey(r.ID), "ended", "failed").Err())
			require.NoError(t, admin.HDel(ctx, taskstate.LiveKey(r.ID), "cancelled").Err())
			require.NoError(t, queue.Remove(ctx, admin, "text:interactive", r.ID, r.Model, nil))
		}
		info, err := reader.Get(ctx, r.ID)
		require.NoError(t, err)
		require.True(t, info.Cancelled || info.Result != nil, "%+v", info)
	})
}

// A task is listed once, whichever list it moves to meanwhile.
func TestAListMissesNoTaskThatMoves(t *testing.T) {
	const prefix = "asynq:{text:interactive}:"
	whileReading(t, func(t *testing.T, writer, reader *tasks.Client, admin *redis.Client, _ storage.Store, b *between) {
		ctx := t.Context()
		ids := map[string]bool{}
		for i := range 3 {
			r, err := writer.Enqueue(ctx, tasks.Text{Prompt: fmt.Sprint(i)})
			require.NoError(t, err)
			ids[r.ID] = true
		}
		b.change = func() { // a worker takes one, and another one is deferred
			id, err := admin.LMove(ctx, prefix+"pending", prefix+"active", "RIGHT", "LEFT").Result()
			require.NoError(t, err)
			require.NoError(t, admin.HSet(ctx, prefix+"t:"+id, "state", "active").Err())
			id, err = admin.RPop(ctx, prefix+"pending").Result()
			require.NoError(t, err)
			require.NoError(t, admin.ZAdd(ctx, prefix+"retry", redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: id}).Err())
			require.NoError(t, admin.HSet(ctx, prefix+"t:"+id, "state", "retry").Err())
		}
		list, err := reader.List(ctx, tasks.ListFilter{})
		require.NoError(t, err)
		seen := map[string]bool{}
		for _, info := range list {
			require.False(t, seen[info.ID], "listed twice")
			seen[info.ID] = true
		}
		require.Equal(t, ids, seen)
	})
}
