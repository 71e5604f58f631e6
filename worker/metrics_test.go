package worker_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/internal/metrics"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestAWorkerCountsItsTasksForPrometheus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb, store, emulator := redistest.Memory(t), storage.NewMemory(), workersaitest.New(workersaitest.Options{NoLimits: true})
		emulator.Fault(workersaitest.Fault{Contains: "never", Code: 5006})
		registry := prometheus.NewRegistry()
		w, err := worker.New(worker.Config{Redis: rdb, Store: store, AI: emulator.Client(), Log: slog.New(slog.DiscardHandler), Metrics: registry})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
		for _, text := range []string{"fine", "never"} {
			receipt, err := client.Enqueue(t.Context(), tasks.Text{Prompt: text})
			require.NoError(t, err)
			_, _ = client.Wait(t.Context(), receipt.ID) // the second one fails
		}
		answer := httptest.NewRecorder()
		metrics.Handler(registry).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		stop()
		require.NoError(t, <-ended)
		spec, _ := tasks.SpecOf(tasks.KindText)
		text, model := answer.Body.String(), spec.Model()
		for _, line := range []string{
			`neuronmill_calls_total{code="ok",model="` + model + `"} 1`,
			`neuronmill_calls_total{code="5006",model="` + model + `"} 1`,
			`neuronmill_tasks_ended_total{code="",kind="text",model="` + model + `",outcome="completed"} 1`,
			`neuronmill_task_seconds_count{kind="text",lane="interactive",phase="queue"} 2`,
			`neuronmill_task_seconds_count{kind="text",lane="interactive",phase="gate"} 2`,
			`neuronmill_task_seconds_count{kind="text",lane="interactive",phase="store"} 1`,
			`neuronmill_task_seconds_count{kind="text",lane="interactive",phase="total"} 2`,
			`neuronmill_gate_calls_total{model="` + model + `"} 2`,
			`neuronmill_bucket_refuses 0`,
			`neuronmill_redis_up 1`,
		} {
			require.Contains(t, text, "\n"+line+"\n")
		}
	})
}
