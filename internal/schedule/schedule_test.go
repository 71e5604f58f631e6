package schedule_test

import (
	"context"
	"errors"
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

func TestEachSlotFiresOnceWithTwoSchedulers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		redis, store := redistest.Memory(t), storage.NewMemory()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			client := tasks.NewClient(tasks.Config{Redis: redis, Store: store})
			s := schedule.New(load(t, nightly), client, slog.New(slog.DiscardHandler))
			wg.Go(func() { require.NoError(t, s.Run(ctx)) })
		}
		time.Sleep(24*time.Hour + time.Second)
		cancel()
		wg.Wait()
		n, err := redis.LLen(t.Context(), "asynq:{embedding:interactive}:pending").Result()
		require.NoError(t, err)
		require.EqualValues(t, 24, n)
		n, err = redis.LLen(t.Context(), "asynq:{text:bulk}:pending").Result()
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	})
}

func TestASlotThatRedisCouldNotTakeIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := redistest.Memory(t)
		memory.AddHook(&sick{until: time.Now().Add(time.Hour + 20*time.Second)})
		client := tasks.NewClient(tasks.Config{Redis: memory})
		s := schedule.New(load(t, nightly), client, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, s.Run(ctx)) })
		time.Sleep(time.Hour + time.Minute)
		cancel()
		wg.Wait()
		n, err := memory.LLen(t.Context(), "asynq:{embedding:interactive}:pending").Result()
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	})
}

// sick is a Redis that refuses everything until a moment.
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

func TestClockChangesNeitherSkipNorDoubleADay(t *testing.T) {
	entries := load(t, strings.Replace(nightly, "0 2", "30 2", 1))[:1]
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	for _, day := range []time.Time{
		time.Date(2026, 3, 28, 12, 0, 0, 0, berlin),  // 02:30 does not exist the next day
		time.Date(2026, 10, 24, 12, 0, 0, 0, berlin), // 02:30 comes twice the next day
	} {
		runs := schedule.Next(entries, day, 3)
		require.Len(t, runs, 3)
		for i := 1; i < len(runs); i++ {
			gap := runs[i].At.Sub(runs[i-1].At)
			require.Greater(t, gap, 22*time.Hour, "%v", runs)
			require.LessOrEqual(t, gap, 49*time.Hour, "%v", runs)
		}
	}
}

func TestABadFileIsRefusedWithEveryProblem(t *testing.T) {
	for text, want := range map[string][]string{
		"":                         {"empty"},
		"schedules: []":            {"empty"},
		"schedules:\n  - nam: x\n": {"nam"},
		"schedules: [{name: a, cron: '* * * * * *', kind: text, payload: {prompt: x}}]":                                    {"schedules[0] a: cron"},
		"schedules: [{name: a, cron: '@every 1ms', kind: text, payload: {prompt: x}}]":                                     {"five fields"},
		"schedules: [{name: a, cron: '0 0 30 2 *', kind: text, payload: {prompt: x}}]":                                     {"never comes"},
		"schedules: [{name: a, cron: '@daily', time_zone: ../../etc/passwd, kind: text, payload: {prompt: x}}]":            {"no time zone"},
		"schedules: [{name: a b, cron: '60 * * * *', time_zone: Mars/Phobos, kind: txt, lane: fast}]":                      {"name", "cron", "time_zone", "payload", "lane"},
		"schedules: [{name: a, cron: '@daily', kind: text, model: '@cf/meta/llama-2-7b-chat-int8', payload: {prompt: x}}]": {"withdrawn"},
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
