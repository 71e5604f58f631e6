package gate_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/stretchr/testify/require"
)

// other is a second model of the same account.
const other = "@cf/another/model"

func TestACallThatTheAccountRefusesCostsItsModelsGateNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g, fresh := gateOn(rdb, 60), gateOn(rdb, 60) // fresh has not met the closure yet
		done(t, pass(t, g), gate.Passed, 0)
		time.Sleep(time.Minute)
		p, err := g.Acquire(t.Context(), gate.Request{Model: other, Kind: "text"})
		require.NoError(t, err)
		require.True(t, done(t, p, gate.Quota, 0).New)
		for _, g := range []*gate.Gate{fresh, g, fresh} {
			for _, lane := range []string{"interactive", "bulk"} {
				_, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Lane: lane})
				var pause *gate.RetryLaterError
				require.ErrorAs(t, err, &pause)
				require.Equal(t, gate.Account, pause.Model)
			}
		}
		require.Equal(t, 1, state(t, g).Calls)
		require.Zero(t, state(t, g).NextSlot, "its slot is free")
		require.Zero(t, state(t, g).InFlight)
	})
}

func TestAProbeThatTheAccountRefusesIsLeftToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		done(t, pass(t, g), gate.Throttled, 10*time.Second)
		p, err := g.Acquire(t.Context(), gate.Request{Model: other, Kind: "text"})
		require.NoError(t, err)
		done(t, p, gate.Quota, 0)
		time.Sleep(10 * time.Second)
		require.Equal(t, gate.Account, paused(t, g).Model)
		require.NotEqual(t, "probing", state(t, g).Word())
		require.NoError(t, g.Open(t.Context(), gate.Account))
		start := time.Now()
		pass(t, g)
		require.Zero(t, time.Since(start), "it need not wait for a probe that was never sent")
	})
}

func TestACallThatTheTotalRefusesCostsItsModelsGateNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(gate.Config{
			Redis: redistest.Memory(t), Total: func(string) int { return 2 },
			Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: 600} },
		})
		pass(t, g)
		time.Sleep(time.Second)
		require.Equal(t, "text:total", paused(t, g).Model)
		require.Equal(t, 1, state(t, g).Calls)
		require.Zero(t, state(t, g).NextSlot, "its slot is free")
	})
}

func TestTheAccountsProbeServesTheCallThatMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gateOn(rdb, 60)
		done(t, pass(t, g), gate.Quota, 0)
		time.Sleep(25 * time.Hour)
		require.NoError(t, rdb.HSet(t.Context(), gate.Key(model), "next", time.Now().Add(time.Second).UnixMicro()).Err())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first, second := make(chan time.Duration, 1), make(chan time.Duration, 1)
		start := time.Now()
		for _, passed := range []chan time.Duration{first, second} {
			go func() {
				if p, err := g.Acquire(ctx, ask("interactive")); err == nil {
					passed <- time.Since(start)
					_, _ = p.Release(ctx, gate.Passed, 0)
				}
			}()
			synctest.Wait()
		}
		require.Equal(t, time.Second, <-first, "its own probe does not hold it up")
		require.Less(t, <-second, 2200*time.Millisecond)
	})
}
