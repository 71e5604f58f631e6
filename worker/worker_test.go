package worker_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestEveryWrongSettingIsNamed(t *testing.T) {
	_, err := worker.New(worker.Config{
		Kinds: []tasks.Kind{"poem"}, Concurrency: -1, Limits: map[string]int{"poem": 1}, BulkShare: 0.6, Poll: -time.Second,
	})
	require.EqualError(t, err, `worker: setting Redis is missing
setting Store is missing
setting AI is missing
setting Kinds: there is no kind "poem"
setting Concurrency -1 is out of range, 1 to 10000
setting Limits: limits: "poem" is neither a kind, KIND:total nor a model
setting BulkShare 0.6 is out of range, at most 0.5
setting Poll -1s is negative`)
	valid := worker.Config{Redis: redis.NewClient(&redis.Options{}), Store: storage.NewMemory(), AI: &workersai.Client{}}
	require.NoError(t, valid.Validate())
	require.Equal(t, 160, valid.Calls())
	valid.Kinds, valid.Concurrency = []tasks.Kind{tasks.KindText}, 3
	require.Equal(t, 6, valid.Calls())
}

func TestAWorkerKeepsItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb, store, emulator := redistest.Memory(t), storage.NewMemory(), workersaitest.New(workersaitest.Options{NoLimits: true})
		w, err := worker.New(worker.Config{
			Redis: rdb, Store: store, AI: emulator.Client(), Limits: map[string]int{"text": 30}, Log: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		defer func() { stop(); require.NoError(t, <-done) }()

		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
		begun := time.Now()
		var requests []tasks.Request
		for range 20 {
			requests = append(requests, tasks.Request{Payload: tasks.Text{Prompt: "Name three rivers"}})
		}
		for _, outcome := range client.EnqueueMany(t.Context(), requests) {
			require.NoError(t, outcome.Err)
			_, err := client.Wait(t.Context(), outcome.ID)
			require.NoError(t, err)
		}
		require.Greater(t, time.Since(begun), 30*time.Second)
		require.Len(t, emulator.Requests(), 20)
	})
}

// oldBucket lacks create-only writes.
type oldBucket struct{ *storage.Memory }

func (b oldBucket) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	return b.Put(ctx, key, body, contentType)
}

func TestABucketWithoutCreateOnlyWritesIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, err := worker.New(worker.Config{
			Redis: redistest.Memory(t), Store: oldBucket{storage.NewMemory()}, AI: workersaitest.New(workersaitest.Options{}).Client(),
			Log: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		require.ErrorIs(t, w.Run(t.Context()), errors.ErrUnsupported)
	})
}
