package tasks_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestDoReturnsTheOutputOrTheTasksError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		redis, emulator := redistest.Memory(t), workersaitest.New(workersaitest.Options{})
		w, err := worker.New(worker.Config{
			Redis: redis, Store: storage.NewMemory(), AI: emulator.Client(), Log: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		defer func() { stop(); require.NoError(t, <-done) }()
		client := tasks.NewClient(tasks.Config{Redis: redis})

		translated, err := tasks.Do(t.Context(), client, &tasks.Translation{Text: "Good morning", TargetLang: "es"})
		require.NoError(t, err)
		require.Equal(t, "[es] buenos días", translated.TranslatedText)
		embedded, err := tasks.Do(t.Context(), client, tasks.Embedding{Texts: []string{"red apples"}}, tasks.WithLane(tasks.Bulk))
		require.NoError(t, err)
		require.Len(t, embedded.Vectors, 1)

		_, err = tasks.Do(t.Context(), client, tasks.Text{})
		require.ErrorAs(t, err, new(tasks.ValidationError))
		_, err = tasks.Do(t.Context(), client, (*tasks.Text)(nil))
		require.ErrorContains(t, err, "payload: is missing")

		emulator.Fault(workersaitest.Fault{Kind: "text", Status: http.StatusBadRequest, Body: `{"errors":[{"code":5006,"message":"bad input"}]}`})
		_, err = tasks.Do(t.Context(), client, tasks.Text{Prompt: "hi"})
		failure := new(tasks.TaskError)
		require.ErrorAs(t, err, &failure)
		require.Equal(t, tasks.CodeOf(err), failure.Code)

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = tasks.Do(short, client, tasks.Text{Prompt: "later"}, tasks.WithDelay(time.Hour))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "wait for t_", "the caller may wait again")
	})
}
