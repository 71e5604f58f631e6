package schedule_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// TestTheBoundsOfAScheduleAreThoseOfItsRuns: for a file, for new objects, and for one task.
func TestTheBoundsOfAScheduleAreThoseOfItsRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		require.NoError(t, f.store.Put(t.Context(), "default/in/titles.csv", strings.NewReader("sku,title\na,One\n"), "text/csv"))
		require.NoError(t, f.store.Put(t.Context(), "default/in/calls/a.wav", strings.NewReader("x"), "audio/wav"))
		bounded := func(d schedule.Definition) schedule.Run {
			d.MaxNeurons, d.Spend, d.FinishBy = 50, tasks.SpendFree, "06:30"
			f.add(t, d)
			r, err := f.RunNow(t.Context(), d.Name)
			require.NoError(t, err)
			require.Equal(t, schedule.Running, r.Status, r.Reason)
			return r
		}
		by := time.Date(2000, 1, 1, 6, 30, 0, 0, time.UTC)
		file, fresh := fromFile(), calls()
		file.File.Key, file.Keep, fresh.Keep = "in/titles.csv", "30d", "30d"
		for _, d := range []schedule.Definition{file, fresh} {
			r := bounded(d)
			b, err := f.Batches().Get(t.Context(), r.Batch)
			require.NoError(t, err)
			require.Zero(t, b.Invalid)
			require.Equal(t, []any{50.0, tasks.SpendFree, batch.MaxAge(30 * 24 * time.Hour), by}, []any{b.MaxNeurons, b.Spend, b.Keep, b.Deadline})
		}
		most := 100
		one := hourly("one")
		one.Payload["max_tokens"] = most
		r := bounded(one)
		info, err := f.Client.Get(t.Context(), r.Task)
		require.NoError(t, err)
		require.Equal(t, []any{50.0, tasks.SpendFree, by}, []any{info.MaxNeurons, info.Spend, info.Deadline})
		caps, err := (&budget.Caps{Redis: f.memory, Store: f.store}).List(t.Context())
		require.NoError(t, err)
		require.Equal(t, []budget.Cap{budget.FreeCap}, caps, "all calls count against the allocation")
	})
}

func TestARunFinishesByTheNextSuchTimeOfDay(t *testing.T) {
	d := fromFile()
	d.FinishBy, d.TimeZone = "06:30", "Europe/Berlin"
	berlin, err := time.LoadLocation(d.TimeZone)
	require.NoError(t, err)
	at := func(month time.Month, day, hour, minute int) time.Time {
		return time.Date(2026, month, day, hour, minute, 0, 0, berlin)
	}
	for slot, by := range map[time.Time]time.Time{
		at(11, 27, 2, 0):  at(11, 27, 6, 30),
		at(11, 27, 6, 30): at(11, 28, 6, 30),
		at(11, 27, 22, 0): at(11, 28, 6, 30),
		at(3, 28, 22, 0):  at(3, 29, 6, 30), // the night is an hour shorter
		at(12, 31, 7, 0):  time.Date(2027, 1, 1, 6, 30, 0, 0, berlin),
	} {
		require.True(t, by.Equal(d.EndsBy(slot.UTC())), "%s: %s", slot, d.EndsBy(slot))
	}
	d.FinishBy = "00:00"
	require.True(t, at(11, 28, 0, 0).Equal(d.EndsBy(at(11, 27, 2, 0))))
	d.FinishBy = ""
	require.True(t, d.EndsBy(at(11, 27, 2, 0)).IsZero())
}
