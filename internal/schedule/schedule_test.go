package schedule_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

const nightly = `
schedules:
  - name: nightly
    cron: "0 2 * * *"
    time_zone: Europe/Berlin
    kind: text
    payload: {prompt: "Sum up the day"}
  - name: hourly
    cron: "@hourly"
    kind: embedding
    payload: {texts: [one, two]}
    lane: interactive
    deadline: 30m
`

func load(t *testing.T, text string) []schedule.Entry {
	t.Helper()
	entries, err := schedule.Load(strings.NewReader(text))
	require.NoError(t, err)
	return entries
}

// config returns the settings of a scheduler that polls rarely, so that days pass quickly.
func config(memory *redis.Client, store storage.Store, entries ...schedule.Entry) schedule.Config {
	return schedule.Config{Redis: memory, Store: store, Entries: entries, Poll: 10 * time.Minute, Log: slog.New(slog.DiscardHandler)}
}

func TestEachSlotFiresOnceWithTwoSchedulers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, store := redistest.Memory(t), storage.NewMemory()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			s := schedule.New(config(memory, store, load(t, nightly)...))
			wg.Go(func() { require.NoError(t, s.Run(ctx)) })
		}
		time.Sleep(24*time.Hour + time.Second)
		cancel()
		wg.Wait()
		require.Equal(t, 24, queued(t, memory, "embedding:interactive"))
		require.Equal(t, 1, queued(t, memory, "text:bulk"))
	})
}

func TestASlotThatRedisCouldNotTakeIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := redistest.Memory(t)
		memory.AddHook(&sick{until: time.Now().Add(time.Hour + 20*time.Second)})
		s := schedule.New(config(memory, storage.NewMemory(), load(t, nightly)...))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, s.Run(ctx)) })
		time.Sleep(time.Hour + time.Minute)
		cancel()
		wg.Wait()
		require.Equal(t, 1, queued(t, memory, "embedding:interactive"))
	})
}

// sick is a Redis that refuses everything until a given time.
type sick struct{ until time.Time }

func (h *sick) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *sick) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if time.Now().Before(h.until) {
			return errors.New("LOADING")
		}
		return next(ctx, cmd)
	}
}

func (h *sick) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if time.Now().Before(h.until) {
			for _, c := range cmds {
				c.SetErr(errors.New("LOADING"))
			}
			return errors.New("LOADING")
		}
		return next(ctx, cmds)
	}
}

func TestClockChangesNeitherSkipNorDoubleASlot(t *testing.T) {
	for _, c := range []struct {
		name, cron, zone, from string
		want                   []string
	}{
		{"skipped hour comes right after", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"several slots in the skipped hour come as one", "0,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
			[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"a start behind the gap does not repeat it", "30 2 * * *", "Europe/Berlin", "2026-03-29T01:10:00Z",
			[]string{"2026-03-30T02:30:00+02:00"}},
		{"doubled hour comes the first time", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z",
			[]string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"doubled hour is not repeated by a start within", "30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z",
			[]string{"2026-10-26T02:30:00+01:00"}},
		{"the same in America, doubled", "30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z",
			[]string{"2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"}},
		{"the same in America, skipped", "30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z",
			[]string{"2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"}},
		{"hourly goes by elapsed time", "0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z",
			[]string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},
		{"half an hour of Lord Howe", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T10:00:00Z",
			[]string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			entries := load(t, fmt.Sprintf("schedules: [{name: a, cron: %q, time_zone: %s, kind: text, payload: {prompt: x}}]", c.cron, c.zone))
			from, err := time.Parse(time.RFC3339, c.from)
			require.NoError(t, err)
			var got []string
			for _, r := range schedule.Next(entries, from, len(c.want)) {
				got = append(got, r.At.Format(time.RFC3339))
			}
			require.Equal(t, c.want, got)
		})
	}
}

// queued returns how many tasks wait in a queue.
func queued(t *testing.T, r *redis.Client, queue string) int {
	t.Helper()
	n, err := r.LLen(t.Context(), "asynq:{"+queue+"}:pending").Result()
	require.NoError(t, err)
	return int(n)
}

// runFor runs one scheduler for a while.
func runFor(t *testing.T, d, catchUp time.Duration, text string, memory *redis.Client, store storage.Store) {
	t.Helper()
	c := config(memory, store, load(t, text)...)
	c.CatchUp = catchUp
	s := schedule.New(c)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	require.NoError(t, s.Run(ctx))
}

func TestSlotsMissedWhileDownAreSkippedUnlessCaughtUp(t *testing.T) {
	const hourly = "schedules: [{name: a, cron: '@hourly', kind: text, payload: {prompt: x}}]"
	synctest.Test(t, func(t *testing.T) {
		memory := redistest.Memory(t)
		store := storage.NewMemory()
		runFor(t, 90*time.Minute, 0, hourly, memory, store)
		require.Equal(t, 1, queued(t, memory, "text:bulk"))
		time.Sleep(5 * time.Hour)
		runFor(t, time.Minute, 0, hourly, memory, store)
		require.Equal(t, 1, queued(t, memory, "text:bulk"), "slots of the past are skipped")
		runFor(t, time.Minute, 3*time.Hour, hourly, memory, store)
		require.Equal(t, 4, queued(t, memory, "text:bulk"), "those of the last three hours are not")
		runFor(t, time.Minute, 24*time.Hour, hourly, memory, store)
		require.Equal(t, 4, queued(t, memory, "text:bulk"), "none is repeated, and none before the last run comes")
	})
}

func TestASlotIsNotEnqueuedBehindItsDeadline(t *testing.T) {
	const brief = "schedules: [{name: a, cron: '@hourly', kind: text, payload: {prompt: x}, deadline: 90m}]"
	synctest.Test(t, func(t *testing.T) {
		memory := redistest.Memory(t)
		time.Sleep(10 * time.Minute)
		runFor(t, time.Minute, 5*time.Hour, brief, memory, storage.NewMemory())
		require.Equal(t, 2, queued(t, memory, "text:bulk"))
	})
}

func TestTheTaskOfASlotHasTheDeadlineOfItsSlot(t *testing.T) {
	const brief = "schedules: [{name: a, cron: '@hourly', kind: text, payload: {prompt: x}, deadline: 90m}]"
	synctest.Test(t, func(t *testing.T) {
		memory, store := redistest.Memory(t), storage.NewMemory()
		client := tasks.NewClient(tasks.Config{Redis: memory, Store: store})
		start := time.Now().Truncate(time.Hour)
		runFor(t, time.Hour+time.Minute, 0, brief, memory, store)
		list, err := client.List(t.Context(), tasks.ListFilter{})
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, start.Add(time.Hour+90*time.Minute), list[0].Deadline.Local())
	})
}

func TestSlotsThatLaterOnesHaveOverrunAreSkippedAndCounted(t *testing.T) {
	const hourly = "schedules: [{name: a, cron: '@hourly', kind: text, payload: {prompt: x}}]"
	synctest.Test(t, func(t *testing.T) {
		memory := redistest.Memory(t)
		memory.AddHook(&sick{until: time.Now().Truncate(time.Hour).Add(4*time.Hour - time.Minute)})
		var log bytes.Buffer
		c := config(memory, storage.NewMemory(), load(t, hourly)...)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		s := schedule.New(c)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour-time.Second)
		defer cancel()
		require.NoError(t, s.Run(ctx))
		require.Equal(t, 2, queued(t, memory, "text:bulk"), "the third slot, late, and the fourth")
		require.Equal(t, 2, strings.Count(log.String(), "slots=1"), log.String())
		require.Equal(t, 3, strings.Count(log.String(), "slot not enqueued"), "once a slot: %s", log.String())
	})
}

func TestASlotThatHasAnotherTaskIsGivenUp(t *testing.T) {
	const hourly = "schedules: [{name: a, cron: '@hourly', kind: text, payload: {prompt: x}}]"
	synctest.Test(t, func(t *testing.T) {
		memory := redistest.Memory(t)
		store := storage.NewMemory()
		client := tasks.NewClient(tasks.Config{Redis: memory, Store: store})
		slot := time.Now().Truncate(time.Hour).Add(time.Hour)
		_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "of an older file"}, tasks.WithLane(tasks.Bulk), tasks.WithScheduleSlot("a", slot))
		require.NoError(t, err)
		var log bytes.Buffer
		c := config(memory, store, load(t, hourly)...)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		s := schedule.New(c)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour+time.Minute)
		defer cancel()
		require.NoError(t, s.Run(ctx))
		require.Equal(t, 1, strings.Count(log.String(), "slot was enqueued with another task"), log.String())
		require.Equal(t, 2, queued(t, memory, "text:bulk"), "the other task and the next slot's")
	})
}

func TestABadFileIsRefusedWithEveryProblem(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                       {"empty"},
		"schedules: []":                          {"empty"},
		"schedules:\n  - nam: x\n":               {"nam", "2"},
		"schedules: []\n---\nschedules: []":      {"more than one"},
		"schedules:\n  - name: a\n    name: b\n": {"3", "name"},
		"schedules: [{name: a, cron: '@daily', kind: text, payload: {prompt: x}}, {name: a, cron: '@hourly', kind: text, payload: {prompt: y}}]": {"schedules[1] a: name"},
		"schedules: [{name: a, cron: '@daily', kind: text, deadline: soon, payload: {prompt: x}}]":                                               {"schedules[0] a: deadline"},
		"schedules: [{name: a, cron: '@daily', kind: text, deadline: -6h, payload: {prompt: x}}]":                                                {"schedules[0] a: deadline"},
		"schedules: [{name: a, cron: '* * * * * *', kind: text, payload: {prompt: x}}]":                                                          {"schedules[0] a: cron"},
		"schedules: [{name: a, cron: '@every 1ms', kind: text, payload: {prompt: x}}]":                                                           {"five fields"},
		"schedules: [{name: a, cron: '0 0 30 2 *', kind: text, payload: {prompt: x}}]":                                                           {"never comes"},
		"schedules: [{name: a, cron: '@daily', time_zone: ../../etc/passwd, kind: text, payload: {prompt: x}}]":                                  {"no time zone"},
		"schedules: [{name: a b, cron: '60 * * * *', time_zone: Mars/Phobos, kind: txt, lane: fast}]":                                            {"name", "cron", "time_zone", "kind", "lane"},
		"schedules: [{name: a, cron: '@daily', kind: text, model: '@cf/meta/llama-2-7b-chat-int8', payload: {prompt: x}}]":                       {"withdrawn"},
	} {
		_, err := schedule.Load(strings.NewReader(text))
		require.Error(t, err, text)
		for _, w := range want {
			require.ErrorContains(t, err, w, text)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(nightly)
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := schedule.Load(strings.NewReader(text))
		if err == nil {
			schedule.Next(entries, time.Now(), 2)
		}
	})
}
