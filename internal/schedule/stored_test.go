package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// fixture is a bucket and a Redis with stored schedules.
type fixture struct {
	memory *redis.Client
	store  *storage.Memory
	*schedule.Stored
}

func newFixture(t *testing.T) *fixture {
	memory, store := redistest.Memory(t), storage.NewMemory()
	return &fixture{memory, store, schedule.NewStored(schedule.StoredConfig{
		Client: tasks.NewClient(tasks.Config{Redis: memory, Store: store}), Store: store, Redis: memory, Log: slog.New(slog.DiscardHandler),
	})}
}

// hourly is a schedule that fires at full hours.
func hourly(name string) schedule.Definition {
	return schedule.Definition{Name: name, Cron: "@hourly", Kind: tasks.KindText, Payload: map[string]any{"prompt": "{{name}} at {{slot}}"}}
}

func (f *fixture) add(t *testing.T, d schedule.Definition) {
	t.Helper()
	_, err := f.Add(t.Context(), d)
	require.NoError(t, err)
}

// run runs a scheduler for a while.
func (f *fixture) run(t *testing.T, d time.Duration, store storage.Store, now func() time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	s := schedule.New(schedule.Config{Redis: f.memory, Store: store, Poll: time.Minute, Now: now, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, s.Run(ctx))
}

// slots returns the slots of the runs in order, with their status where that is not running.
func (f *fixture) slots(t *testing.T, name string) []string {
	t.Helper()
	runs, err := f.History(t.Context(), name, schedule.KeptRuns)
	require.NoError(t, err)
	var slots []string
	for _, r := range slices.Backward(runs) {
		slot := r.Slot.Format("15:04")
		if r.Status != schedule.Running {
			slot += " " + string(r.Status)
		}
		slots = append(slots, slot)
	}
	return slots
}

// end writes the result of a task, as a worker does.
func (f *fixture) end(t *testing.T, id string, status tasks.Status) {
	t.Helper()
	document := fmt.Sprintf(`{"id":%q,"kind":"text","status":%q,"usage":{"neurons":2.5,"calls":1},"error":{"code":"broken","message":"x"},"finished_at":%q}`, id, status, time.Now().Format(time.RFC3339))
	require.NoError(t, f.store.Put(t.Context(), resultKey(id), strings.NewReader(document), "application/json"))
}

func TestASchedulerFollowsStoredSchedulesWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			s := schedule.New(schedule.Config{Redis: f.memory, Store: f.store, Log: slog.New(slog.DiscardHandler)})
			require.NoError(t, s.Run(ctx))
		})
		time.Sleep(time.Hour - 5*time.Second) // to 00:59:55
		f.add(t, hourly("a"))
		time.Sleep(time.Hour) // to 01:59:55
		require.Equal(t, []string{"01:00"}, f.slots(t, "a"))
		require.NoError(t, f.Pause(t.Context(), "a"))
		time.Sleep(time.Hour) // to 02:59:55
		require.Equal(t, []string{"01:00"}, f.slots(t, "a"), "it is paused")
		require.NoError(t, f.Resume(t.Context(), "a"))
		time.Sleep(time.Hour) // to 03:59:55
		require.Equal(t, []string{"01:00", "03:00"}, f.slots(t, "a"), "the slot of the pause is not made up for")
		require.NoError(t, f.Remove(t.Context(), "a"))
		time.Sleep(time.Hour) // to 04:59:55
		require.Equal(t, []string{"01:00", "03:00"}, f.slots(t, "a"))
		f.add(t, hourly("a"))
		time.Sleep(time.Hour)
		require.Equal(t, []string{"01:00", "03:00", "05:00"}, f.slots(t, "a"), "a schedule of the same name continues the runs")
		cancel()
		wg.Wait()
	})
}

func TestAnIdleSchedulerAsksRedisOnceInTwoSecondsAndSeldomListsTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.add(t, schedule.Definition{Name: "a", Cron: "@yearly", Kind: tasks.KindText, Payload: map[string]any{"prompt": "x"}})
		counted := &counter{Store: f.store}
		commands := &commandCounter{}
		f.memory.AddHook(commands)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.NoError(t, schedule.New(schedule.Config{Redis: f.memory, Store: counted, Log: slog.New(slog.DiscardHandler)}).Run(ctx))
		require.LessOrEqual(t, commands.n, 1801+13)
		require.LessOrEqual(t, counted.lists, 13*3+1, "every five minutes: the tenants and the schedules")
	})
}

type counter struct {
	storage.Store
	lists int
}

func (c *counter) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	c.lists++
	return c.Store.List(ctx, prefix, after)
}

// commandCounter counts the commands of a client.
type commandCounter struct{ n int }

func (c *commandCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *commandCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n++
		return next(ctx, cmd)
	}
}

func (c *commandCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestMissedSlotsRunByThePolicyOfTheSchedule(t *testing.T) {
	for policy, want := range map[schedule.Missed][]string{
		"":                  {"01:00", "06:00"},
		schedule.MissedOnce: {"01:00", "06:00"},
		schedule.MissedSkip: {"01:00"},
		schedule.MissedAll:  {"01:00", "04:00", "05:00", "06:00"},
	} {
		t.Run("policy "+string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				d := hourly("a")
				d.Missed = policy
				if policy != schedule.MissedSkip {
					d.MissedWithin = "3h"
				}
				f.add(t, d)
				f.run(t, 90*time.Minute, f.store, nil)
				time.Sleep(5 * time.Hour) // to 06:30
				f.run(t, time.Minute, f.store, nil)
				require.Equal(t, want, f.slots(t, "a"))
			})
		})
	}
}

func TestASlotDuringARestartIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := hourly("a")
		d.Missed = schedule.MissedSkip
		f.add(t, d)
		f.run(t, 119*time.Minute, f.store, nil)
		time.Sleep(3 * time.Minute) // to 02:02
		f.run(t, time.Minute, f.store, nil)
		require.Equal(t, []string{"01:00", "02:00"}, f.slots(t, "a"))
	})
}

func TestASlotThatHasFiredDoesNotFireAgainWhenNothingElseRemembersIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.add(t, hourly("a"))
		f.run(t, 90*time.Minute, f.store, nil)
		require.Equal(t, 1, queued(t, f.memory, "text:bulk"))
		// The task has ended, its result was deleted by a lifecycle rule, and Redis is empty.
		for info, err := range f.store.List(t.Context(), "default/pending/", "") {
			require.NoError(t, err)
			require.NoError(t, f.store.Delete(t.Context(), info.Key))
		}
		require.NoError(t, f.memory.FlushAll(t.Context()).Err())
		behind := func() time.Time { return time.Now().Add(-time.Hour) } // 00:30, so that 01:00 comes again
		f.run(t, 45*time.Minute, f.store, behind)
		require.Zero(t, queued(t, f.memory, "text:bulk"))
	})
}

func TestAClaimWhoseSchedulerDiedIsContinued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.add(t, hourly("a"))
		dying := &deadAfterClaim{Store: f.store}
		f.run(t, time.Hour+time.Second, dying, nil)
		require.Equal(t, []string{"01:00 claimed"}, f.slots(t, "a"))
		require.Zero(t, queued(t, f.memory, "text:bulk"))
		f.run(t, time.Minute, f.store, nil)
		require.Equal(t, []string{"01:00"}, f.slots(t, "a"))
		require.Equal(t, 1, queued(t, f.memory, "text:bulk"))
	})
}

// deadAfterClaim is the bucket of a scheduler that dies after it has claimed a slot.
type deadAfterClaim struct {
	storage.Store
	dead bool
}

func (d *deadAfterClaim) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if d.dead {
		return errors.New("dead")
	}
	d.dead = strings.Contains(key, "/schedule-runs/")
	return d.Store.Create(ctx, key, body, contentType)
}

func TestOverlappingRunsFollowThePolicyOfTheSchedule(t *testing.T) {
	for policy, want := range map[schedule.Overlap][]string{
		"":                     {"01:00", "02:00", "03:00", "04:00"},
		schedule.OverlapSkip:   {"01:00 completed", "02:00 skipped", "03:00 skipped", "04:00"},
		schedule.OverlapCancel: {"01:00", "02:00", "03:00", "04:00"},
		schedule.OverlapQueue:  {"01:00", "02:00", "03:00", "04:00"},
	} {
		t.Run("policy "+string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				d := hourly("a")
				d.Overlap = policy
				f.add(t, d)
				f.run(t, 3*time.Hour+30*time.Minute, f.store, nil)
				runs, err := f.History(t.Context(), "a", 10)
				require.NoError(t, err)
				if policy == schedule.OverlapSkip {
					f.end(t, runs[len(runs)-1].Task, tasks.Completed)
				}
				f.run(t, time.Hour, f.store, nil)
				require.Equal(t, want, f.slots(t, "a"))
				cancelled := 0
				for _, r := range runs {
					info, err := f.Client.Get(t.Context(), r.Task)
					if err == nil && info.Cancelled {
						cancelled++
					}
				}
				if policy == schedule.OverlapCancel {
					require.Equal(t, 3, cancelled)
				} else {
					require.Zero(t, cancelled)
				}
			})
		})
	}
}

func TestTheHistoryHasOutcomesAndCostsAndStaysWhenResultsAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.add(t, hourly("a"))
		f.run(t, 2*time.Hour+30*time.Minute, f.store, nil)
		runs, err := f.History(t.Context(), "a", 10)
		require.NoError(t, err)
		f.end(t, runs[0].Task, tasks.Failed)
		f.end(t, runs[1].Task, tasks.Completed)
		_, err = f.History(t.Context(), "a", 10)
		require.NoError(t, err)
		for _, r := range runs {
			require.NoError(t, f.store.Delete(t.Context(), resultKey(r.Task)))
		}
		runs, err = f.History(t.Context(), "a", 10)
		require.NoError(t, err)
		require.Equal(t, schedule.Failed, runs[0].Status)
		require.Equal(t, "broken", runs[0].Reason)
		require.Equal(t, schedule.Completed, runs[1].Status)
		require.InDelta(t, 2.5, runs[1].Neurons, 0)
		found, err := f.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, schedule.Failed, found.Last.Status)
		require.Equal(t, "03:00", found.Next.Format("15:04"))
	})
}

func TestARunWhoseTaskIsGoneDoesNotStopItsSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := hourly("a")
		d.Overlap = schedule.OverlapSkip
		f.add(t, d)
		f.run(t, 90*time.Minute, f.store, nil)
		for info, err := range f.store.List(t.Context(), "default/pending/", "") {
			require.NoError(t, err)
			require.NoError(t, f.store.Delete(t.Context(), info.Key))
		}
		require.NoError(t, f.memory.FlushAll(t.Context()).Err())
		f.run(t, time.Hour, f.store, nil)
		require.Equal(t, []string{"01:00 unknown", "02:00"}, f.slots(t, "a"))
	})
}

func TestOnlyTheLatestRunsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := hourly("a")
		d.Cron = "* * * * *"
		f.add(t, d)
		f.run(t, 3*time.Hour-time.Second, f.store, nil)
		n := 0
		for _, err := range f.store.List(t.Context(), "default/schedule-runs/", "") {
			require.NoError(t, err)
			n++
		}
		require.Equal(t, schedule.KeptRuns, n)
		require.Equal(t, 179, queued(t, f.memory, "text:bulk"))
	})
}

func TestALongCatchUpOfOneScheduleDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		busy := hourly("busy")
		busy.Cron, busy.Missed = "* * * * *", schedule.MissedAll
		f.add(t, busy)
		f.add(t, hourly("brief"))
		time.Sleep(6*time.Hour - time.Minute)
		slow := &slowFor{Store: f.store, schedule: "/busy/"}
		f.run(t, time.Minute+time.Second, slow, nil)
		require.Contains(t, f.slots(t, "brief"), "06:00", "on time")
		require.Less(t, len(f.slots(t, "busy")), 60)
	})
}

// slowFor is a bucket that takes two seconds for each claim of one schedule.
type slowFor struct {
	storage.Store
	schedule string
}

func (s *slowFor) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if strings.Contains(key, s.schedule) {
		time.Sleep(2 * time.Second)
	}
	return s.Store.Create(ctx, key, body, contentType)
}

func TestPayloadsHaveTheDateOfTheSlotInTheTimeZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.add(t, schedule.Definition{
			Name: "a", Cron: "30 0 * * *", TimeZone: "Asia/Tokyo", Kind: tasks.KindText,
			Payload: map[string]any{"messages": []any{map[string]any{"role": "user", "content": "{{date}} {{ date -1d }} {{datetime}} {{slot}} {{name}} {{ user.name }}"}}},
		})
		f.run(t, 24*time.Hour, f.store, nil)
		list, err := f.Client.List(t.Context(), tasks.ListFilter{})
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Contains(t, string(list[0].Payload), "2000-01-02 2000-01-01 2000-01-02T00:30:00+09:00 2000-01-01T15:30:00Z a {{ user.name }}")
	})
}

func TestARunByHandNeedsNoScheduler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.add(t, hourly("a"))
		require.NoError(t, f.Pause(t.Context(), "a"))
		r, err := f.RunNow(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, r.Manual)
		require.Equal(t, 1, queued(t, f.memory, "text:bulk"))
		_, err = f.RunNow(t.Context(), "b")
		require.ErrorIs(t, err, schedule.ErrNotFound)
		_, err = f.Add(t.Context(), hourly("a"))
		require.ErrorIs(t, err, schedule.ErrExists)
	})
}

func TestAScheduleNamesRecordingsOfItsTenantOnly(t *testing.T) {
	memory, store := redistest.Memory(t), storage.NewMemory()
	acme := schedule.NewStored(schedule.StoredConfig{
		Client: tasks.NewClient(tasks.Config{Redis: memory, Store: store, Tenant: "acme"}), Store: store, Redis: memory, Tenant: "acme", Log: slog.New(slog.DiscardHandler),
	})
	for key, field := range map[string]string{"acme/files/a.wav": "", "default/files/a.wav": "payload.audio.key", "a.wav": "payload.audio.key", "../acme/a.wav": "payload.audio.key"} {
		d := hourly("calls")
		d.Kind, d.Payload = tasks.KindTranscription, map[string]any{"audio": map[string]any{"key": key}}
		_, err := acme.Add(t.Context(), d)
		if field == "" {
			require.NoError(t, err, key)
			require.NoError(t, acme.Remove(t.Context(), "calls"))
			continue
		}
		var invalid tasks.ValidationError
		require.ErrorAs(t, err, &invalid, key)
		require.Equal(t, field, invalid[0].Field, key)
	}
}
