package api

import (
	"net/http"
	"testing"

	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/stretchr/testify/require"
)

const report = `{"name":"report","cron":"0 2 * * *","time_zone":"Europe/Berlin","kind":"text","payload":{"prompt":"Sum up {{date}}"},"overlap":"skip"}`

func TestASchedulesLifeOverHTTP(t *testing.T) {
	b := newBench(t)
	b.key = b.newKey("mine", keys.Scopes...)
	added := b.call(http.MethodPost, "/v1/schedules", report)
	require.Equal(t, http.StatusCreated, added.StatusCode, "%s", added.body)
	var one schedule.Schedule
	added.into(t, &one)
	require.Equal(t, "02:00", one.Next.Format("15:04"))
	b.call(http.MethodPost, "/v1/schedules", report).problem(t, http.StatusConflict, codeScheduleExists)

	b.call(http.MethodPost, "/v1/schedules/report/pause", "").into(t, &one)
	require.True(t, one.Paused)
	started := b.call(http.MethodPost, "/v1/schedules/report/run", "")
	require.Equal(t, http.StatusAccepted, started.StatusCode, "%s", started.body)
	var run schedule.Run
	started.into(t, &run)
	require.Equal(t, schedule.Running, run.Status)
	require.Equal(t, http.StatusOK, b.call(http.MethodGet, "/v1/tasks/"+run.Task, "").StatusCode)
	var history struct{ Runs []schedule.Run }
	b.call(http.MethodGet, "/v1/schedules/report/history?limit=5", "").into(t, &history)
	require.Len(t, history.Runs, 1)
	require.True(t, history.Runs[0].Manual)
	resumed := schedule.Schedule{}
	b.call(http.MethodPost, "/v1/schedules/report/resume", "").into(t, &resumed)
	require.False(t, resumed.Paused)

	var list struct{ Schedules []schedule.Schedule }
	b.call(http.MethodGet, "/v1/schedules", "").into(t, &list)
	require.Len(t, list.Schedules, 1)
	mine := b.key
	b.key = b.newKey("other", keys.Scopes...)
	b.call(http.MethodGet, "/v1/schedules/report", "").problem(t, http.StatusNotFound, codeScheduleNotFound)
	b.call(http.MethodDelete, "/v1/schedules/report", "").problem(t, http.StatusNotFound, codeScheduleNotFound)
	b.key = mine
	require.Equal(t, http.StatusNoContent, b.call(http.MethodDelete, "/v1/schedules/report", "").StatusCode)
	b.call(http.MethodGet, "/v1/schedules/report", "").problem(t, http.StatusNotFound, codeScheduleNotFound)
}

func TestABadScheduleNamesItsFieldsAndRepeatsNothing(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct{ body, field string }{
		"no cron":           {`{"name":"a","kind":"text","payload":{"prompt":"x"}}`, "cron"},
		"a bad cron":        {`{"name":"a","cron":"` + canary + `","kind":"text","payload":{"prompt":"x"}}`, "cron"},
		"a bad zone":        {`{"name":"a","cron":"@daily","time_zone":"` + canary + `","kind":"text","payload":{"prompt":"x"}}`, "time_zone"},
		"a bad name":        {`{"name":"../` + canary + `","cron":"@daily","kind":"text","payload":{"prompt":"x"}}`, "name"},
		"a bad payload":     {`{"name":"a","cron":"@daily","kind":"text","payload":{"promt":"x"}}`, "payload.promt"},
		"a bad placeholder": {`{"name":"a","cron":"@daily","kind":"text","payload":{"prompt":"{{xqcanary}}"}}`, "payload"},
		"a bad policy":      {`{"name":"a","cron":"@daily","kind":"text","payload":{"prompt":"x"},"overlap":"` + canary + `"}`, "overlap"},
		"a bad deadline":    {`{"name":"a","cron":"@daily","kind":"text","payload":{"prompt":"x"},"deadline":"soon"}`, "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			res := b.call(http.MethodPost, "/v1/schedules", c.body)
			require.Equal(t, http.StatusBadRequest, res.StatusCode, "%s", res.body)
			var p Problem
			res.into(t, &p)
			var fields []string
			for _, e := range p.Errors {
				fields = append(fields, e.Field)
			}
			require.Contains(t, fields, c.field, "%s", res.body)
			require.False(t, repeats(res.body, []byte(canary)), "%s", res.body)
			require.NotContains(t, string(res.body), "xqcanary")
		})
	}
	var list struct{ Schedules []schedule.Schedule }
	b.call(http.MethodGet, "/v1/schedules", "").into(t, &list)
	require.Empty(t, list.Schedules)
}
