package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestUsageIsThatOfTheKeysTenantAlone(t *testing.T) {
	b := newBench(t).withKeys()
	ledger := &usage.Ledger{Redis: b.cfg.Redis}
	for i, tenant := range []string{"shop", "other"} {
		pipe := b.cfg.Redis.Pipeline()
		done := ledger.Add(t.Context(), pipe, tenant, tasks.Result{
			ID: "t_" + tenant, Model: "@cf/" + tenant + "/m", FinishedAt: time.Now(), Usage: tasks.Usage{Neurons: float64(1000 * (i + 1)), Calls: 1},
		})
		_, _ = pipe.Exec(t.Context())
		require.NoError(t, done())
	}
	b.key = b.newKey("shop", keys.UsageRead)
	var report usage.Report
	b.call(http.MethodGet, "/v1/usage?days=2&by=model", "").into(t, &report)
	require.Equal(t, []usage.Figures{{Value: "@cf/shop/m", Neurons: 1000, Dollars: 0.011, Tasks: 1, Calls: 1}}, report.Rows)
	require.Nil(t, report.Billed)
	require.NotNil(t, report.Forecast)

	for _, query := range []string{"day=today", "days=41", "by=tenant", "by=poem", "tenant=other"} {
		res := b.call(http.MethodGet, "/v1/usage?"+query, "")
		require.Equal(t, http.StatusBadRequest, res.StatusCode, "%s: %s", query, res.body)
	}
	b.key = b.newKey("shop", keys.TasksRead)
	require.Equal(t, http.StatusForbidden, b.call(http.MethodGet, "/v1/usage", "").StatusCode)
}

func TestATaskKnowsTheKeyThatSubmittedIt(t *testing.T) {
	b := newBench(t).withKeys()
	client := tasks.NewClient(tasks.Config{Redis: b.cfg.Redis, Store: b.store})
	task := b.submitted(goodMorning)
	info, err := client.Get(t.Context(), task.ID)
	require.NoError(t, err)
	require.Len(t, info.Origin.Key, 16, "the public id")
	require.Contains(t, b.key, info.Origin.Key)
}
