package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestATaskCanBeFollowedWhileItRunsAndFoundWhenItHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb, store, emulator := redistest.Memory(t), storage.NewMemory(), workersaitest.New(workersaitest.Options{NoLimits: true})
		emulator.Fault(workersaitest.Fault{Kind: "text", Trickle: 5 * time.Millisecond})
		log := slog.New(slog.DiscardHandler)
		var mu sync.Mutex
		var seen []tasks.EventType
		w, err := worker.New(worker.Config{
			Redis: rdb, Store: store, AI: emulator.Client(), Log: log, Kinds: []tasks.Kind{tasks.KindText},
			Observer: func(e tasks.Event) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, e.Type)
				time.Sleep(time.Second) // slow, and no task waits for it
			},
		})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- w.Run(ctx) }()
		hub := events.NewHub(rdb, log)
		go func() { ended <- hub.Run(ctx) }()

		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
		receipt, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "Name three rivers of Europe, and say where they end"},
			tasks.WithWebhook("https://shop.example/hook"))
		require.NoError(t, err)
		f, err := hub.Follow(t.Context(), receipt.ID, 0, events.SnapshotOf(client, "default", receipt.ID))
		require.NoError(t, err)
		defer f.Close()
		text, parts, last := "", 0, events.Event{}
		for {
			e, err := f.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			switch last = e; e.Type {
			case events.Running:
				text = ""
			case events.Text:
				text, parts = text+e.Text, parts+1
			}
		}
		result, err := client.Wait(t.Context(), receipt.ID)
		require.NoError(t, err)
		var output tasks.TextOutput
		require.NoError(t, json.Unmarshal(result.Output, &output))
		require.Equal(t, output.Text, text)
		require.Greater(t, parts, 3, "it came in parts")
		require.Equal(t, events.Done, last.Type)
		require.Equal(t, tasks.Completed, last.Status)

		stop()
		require.NoError(t, <-ended)
		require.NoError(t, <-ended)
		page, err := (&index.Index{Redis: rdb}).Find(t.Context(), "default", index.Filter{})
		require.NoError(t, err)
		require.Len(t, page.Entries, 1)
		require.Equal(t, receipt.ID, page.Entries[0].ID)
		require.Equal(t, result.FinishedAt.UnixMilli(), page.Entries[0].FinishedAt.UnixMilli())
		waiting, err := (&webhook.Queue{Redis: rdb}).Get(t.Context(), webhook.ID(receipt.ID))
		require.NoError(t, err)
		require.Equal(t, webhook.Waiting, waiting.State, "no secret is set")
		require.Equal(t, []string{waiting.ID}, rdb.ZRange(t.Context(), webhook.DueKey, 0, -1).Val())
		require.Contains(t, string(waiting.Body), `"type":"task.completed"`)
		require.Equal(t, []tasks.EventType{tasks.EventStarted, tasks.EventCalled, tasks.EventFinished}, seen, "the rest is delivered at the stop")
	})
}
