package history_test

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func TestMinutesAndHoursHaveWhatWasAdded(t *testing.T) {
	h := &history.History{Redis: redistest.Memory(t)}
	ctx := t.Context()
	require.NoError(t, h.Add(ctx, "shop", noon.Add(-70*time.Minute), history.Counts{Completed: 9}))
	require.NoError(t, h.Add(ctx, "shop", noon.Add(-time.Minute), history.Counts{Completed: 2, Failed: 1, Neurons: 1.5}))
	require.NoError(t, h.Add(ctx, "shop", noon, history.Counts{Calls: 3, Throttled: 1}))
	require.NoError(t, h.Add(ctx, "other", noon, history.Counts{Calls: 100}))
	minutes, err := h.Minutes(ctx, "shop", noon.Add(30*time.Second), 60)
	require.NoError(t, err)
	require.Len(t, minutes, 60)
	require.Equal(t, history.Span{At: noon, Counts: history.Counts{Calls: 3, Throttled: 1}}, minutes[59])
	require.Equal(t, history.Counts{Completed: 2, Failed: 1, Neurons: 1.5}, minutes[58].Counts)
	require.Zero(t, minutes[0].Counts)
	hours, err := h.Hours(ctx, "shop", noon.Add(30*time.Second), 3)
	require.NoError(t, err)
	require.Equal(t, []int{9, 2, 0}, []int{hours[0].Completed, hours[1].Completed, hours[2].Completed})
}

func TestTheHistoryOfATenantIsBoundedInBytesAndTime(t *testing.T) {
	rdb := redistest.Memory(t)
	h := &history.History{Redis: rdb}
	ctx := t.Context()
	full := history.Counts{Calls: 123456, Throttled: 123456, Completed: 123456, Failed: 123456, Neurons: 1234567}
	for m := range 120 {
		require.NoError(t, h.Add(ctx, "shop", noon.Add(time.Duration(m)*time.Minute), full))
	}
	for hour := range 31 * 24 {
		require.NoError(t, h.Add(ctx, "shop", noon.Add(time.Duration(-hour)*time.Hour), full))
	}
	names, err := rdb.Keys(ctx, "neuronmill:history:*:h*").Result()
	require.NoError(t, err)
	bytes := 0
	for _, name := range names {
		fields, err := rdb.HGetAll(ctx, name).Result()
		require.NoError(t, err)
		require.LessOrEqual(t, len(fields), 120, "Redis stores up to 128 fields compactly")
		for field, value := range fields {
			bytes += len(field) + len(value) + 4
		}
		require.Positive(t, rdb.TTL(ctx, name).Val())
	}
	require.LessOrEqual(t, len(names), 33)
	require.Less(t, bytes, 64<<10)
}

func TestATaskThatFinishesIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history.History{Redis: redistest.Memory(t)}
		observe, stop := h.Observer(slog.New(slog.DiscardHandler))
		now := time.Now()
		end := tasks.Event{Type: tasks.EventFinished, Time: now, Tenant: "shop", Outcome: "completed", Neurons: 2}
		observe(end)
		end.Repeated = true
		observe(end)
		observe(tasks.Event{Type: tasks.EventFinished, Time: now, Tenant: "shop", Outcome: "failed"})
		observe(tasks.Event{Type: tasks.EventCalled, Time: now, Tenant: "shop", Outcome: "ok", Neurons: 2})
		stop()
		minutes, err := h.Minutes(t.Context(), "shop", now, 1)
		require.NoError(t, err)
		require.Equal(t, history.Counts{Completed: 1, Failed: 1, Neurons: 2}, minutes[0].Counts)
	})
}

func TestCallsAreCountedFromTheGates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gate.New(gate.Config{Redis: rdb, Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: 6000, Source: "settings"} }, Log: slog.New(slog.DiscardHandler)})
		h := &history.History{Redis: rdb}
		s := &history.Sampler{History: h, Gate: g}
		call := func() {
			p, err := g.Acquire(t.Context(), gate.Request{Model: "m", Kind: "text"})
			require.NoError(t, err)
			_, err = p.Release(t.Context(), gate.Passed, 0)
			require.NoError(t, err)
		}
		call()
		_, err := s.Sample(t.Context())
		require.NoError(t, err)
		call()
		call()
		_, err = s.Sample(t.Context())
		require.NoError(t, err)
		minutes, err := h.Minutes(t.Context(), history.Fleet, time.Now(), 2)
		require.NoError(t, err)
		require.Equal(t, 2, minutes[0].Calls+minutes[1].Calls)
	})
}

// gateAt is a gate at 600 calls a minute, and a sampler with its first sample.
func gateAt(t *testing.T) (*history.History, *history.Sampler, *gate.Gate) {
	rdb := redistest.Memory(t)
	g := gate.New(gate.Config{Redis: rdb, Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: 600, Source: "settings"} }, Log: slog.New(slog.DiscardHandler)})
	h := &history.History{Redis: rdb}
	return h, &history.Sampler{History: h, Gate: g}, g
}

func TestAGateHasAHistoryOfItsCallsAndPaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s, g := gateAt(t)
		sample := func() {
			_, err := s.Sample(t.Context())
			require.NoError(t, err)
		}
		call := func(how gate.Outcome) {
			p, err := g.Acquire(t.Context(), gate.Request{Model: "m", Kind: "text"})
			require.NoError(t, err)
			_, err = p.Release(t.Context(), how, 0)
			require.NoError(t, err)
		}
		sample()
		call(gate.Passed)
		call(gate.Passed)
		sample()
		for range 24 {
			time.Sleep(history.SampleEvery)
			sample()
		}
		require.NoError(t, g.Set(t.Context(), "m", 30))
		sample()
		spans, err := h.GateMinutes(t.Context(), []string{"m", "other"}, time.Now(), 4)
		require.NoError(t, err)
		var calls, paces []int
		for _, span := range spans["m"] {
			calls, paces = append(calls, span.Calls), append(paces, span.Pace)
		}
		require.Equal(t, []int{0, 2, 0, 0}, calls)
		require.Equal(t, []int{-1, 600, 600, 30}, paces)
		require.Equal(t, -1, spans["other"][3].Pace)
		time.Sleep(history.MinutesFor + time.Hour)
		require.Empty(t, h.Redis.Keys(t.Context(), "neuronmill:history:*:gate:*").Val())
	})
}

func TestTheClosuresOfAGateAreKeptOverTheDeathOfTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s, g := gateAt(t)
		sample := func(by *history.Sampler) {
			_, err := by.Sample(t.Context())
			require.NoError(t, err)
		}
		p, err := g.Acquire(t.Context(), gate.Request{Model: "m", Kind: "text"})
		require.NoError(t, err)
		_, err = p.Release(t.Context(), gate.Throttled, 20*time.Second)
		require.NoError(t, err)
		from := time.Now().UTC()
		sample(s)
		sample(s)
		closures, err := h.Closures(t.Context(), from.Add(-time.Hour))
		require.NoError(t, err)
		require.Len(t, closures, 1)
		require.NotEmpty(t, closures[0].Why)
		closures[0].Why = ""
		require.Equal(t, history.Closure{Gate: "m", From: from}, closures[0])
		time.Sleep(time.Minute)
		sample(&history.Sampler{History: h, Gate: g}) // the next leader
		closures, err = h.Closures(t.Context(), from)
		require.NoError(t, err)
		require.Len(t, closures, 1)
		require.Equal(t, from.Add(time.Minute), closures[0].Until)
		closures, err = h.Closures(t.Context(), from.Add(2*time.Minute))
		require.NoError(t, err)
		require.Empty(t, closures)
	})
}

func TestTheLogOfActionsIsBounded(t *testing.T) {
	h := &history.History{Redis: redistest.Memory(t)}
	for range history.MostActions + 5 {
		require.NoError(t, h.Log(t.Context(), "shop", history.Action{At: noon, Did: "retry", About: "t_1", Count: 1}))
	}
	actions, err := h.Actions(t.Context(), "shop", 10_000)
	require.NoError(t, err)
	require.Len(t, actions, history.MostActions)
	require.Equal(t, history.Action{At: noon, Did: "retry", About: "t_1", Count: 1}, actions[0])
}
