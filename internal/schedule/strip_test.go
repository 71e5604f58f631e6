package schedule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// outcomes writes a strip as the clock times of its slots with their status.
func outcomes(strip []schedule.Past) []string {
	var texts []string
	for _, p := range strip {
		text := p.Slot.UTC().Format("15:04:05") + " missed"
		if p.Run != nil {
			text = p.Slot.UTC().Format("15:04:05") + " " + string(p.Run.Status)
		}
		texts = append(texts, text)
	}
	return texts
}

func TestAStripHasMissedSlotsAndRunsByHandInTheirOrder(t *testing.T) {
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	s := &schedule.Schedule{Definition: hourly("h"), CreatedAt: noon.Add(-5 * time.Hour)}
	runs := []schedule.Run{ // newest first
		{Slot: noon.Add(-90 * time.Minute), Manual: true, Status: schedule.Failed},
		{Slot: noon.Add(-2 * time.Hour), Status: schedule.Completed},
		{Slot: noon.Add(-4 * time.Hour), Status: schedule.Skipped},
		{Slot: noon.Add(-10 * time.Hour), Status: schedule.Completed}, // of a schedule of the name that was removed
	}
	all := []string{"02:00:00 completed", "08:00:00 skipped", "09:00:00 missed", "10:00:00 completed", "10:30:00 failed", "11:00:00 missed"}
	require.Equal(t, all, outcomes(s.Strip(runs, noon.Add(time.Minute), 30)), "the run of the slot at 12:00 may still come")
	require.Equal(t, append(all, "12:00:00 missed"), outcomes(s.Strip(runs, noon.Add(6*time.Minute), 30)))
	require.Equal(t, all[3:], outcomes(s.Strip(runs[:3], noon, 3)))
	require.Empty(t, s.Strip(nil, s.CreatedAt, 30))
}

func TestAStripOfARareScheduleLooksFarBackAndOneOfADenseScheduleDoesNot(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 30, 0, 0, time.UTC)
	rare := &schedule.Schedule{Definition: hourly("r"), CreatedAt: now.AddDate(-3, 0, 0)}
	rare.Cron = "0 0 29 2 *"
	require.Len(t, rare.Strip(nil, now, 30), 1, "of 2024")
	dense := &schedule.Schedule{Definition: hourly("d"), CreatedAt: now.AddDate(-3, 0, 0)}
	dense.Cron = "* * 26 11 *"
	strip := dense.Strip(nil, now, 30)
	require.Len(t, strip, 30)
	require.Equal(t, now.Add(-5*time.Minute), strip[29].Slot)
	require.Equal(t, now.Add(-34*time.Minute), strip[0].Slot)
}

func TestAPageOfSchedulesContinuesAfterAName(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"c", "a", "b-1", "b"} {
		f.add(t, hourly(name))
	}
	var names []string
	for after, rounds := "", 0; ; rounds++ {
		page, next, err := f.Page(t.Context(), after, 2, 5)
		require.NoError(t, err)
		for _, one := range page {
			names = append(names, one.Name)
		}
		if after = next; after == "" {
			require.Equal(t, 1, rounds)
			break
		}
	}
	require.Equal(t, []string{"a", "b", "b-1", "c"}, names)
}

func TestRunsThatHaveEndedAreReadOnceAndOthersEachTime(t *testing.T) {
	f := newFixture(t)
	f.Runs = &schedule.RunCache{Most: 5}
	f.add(t, hourly("h"))
	started, err := f.RunNow(t.Context(), "h")
	require.NoError(t, err)
	status := func() schedule.Status {
		runs, err := f.History(t.Context(), "h", 5)
		require.NoError(t, err)
		return runs[0].Status
	}
	require.Equal(t, schedule.Running, status())
	f.end(t, started.Task, tasks.Completed)
	require.Equal(t, schedule.Completed, status())
	for info, err := range f.store.List(t.Context(), "default/schedule-runs/h/", "") {
		require.NoError(t, err)
		require.NoError(t, f.store.Put(t.Context(), info.Key, strings.NewReader("{"), "application/json"))
	}
	require.Equal(t, schedule.Completed, status(), "it is not read again")
}
