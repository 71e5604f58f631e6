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

// runs keeps the figures of gates up to date until the test ends.
func runs(t *testing.T, gates ...*gate.Gate) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, len(gates))
	for _, g := range gates {
		go func() { ended <- g.Run(ctx) }()
	}
	synctest.Wait()
	return func() {
		cancel()
		for range gates {
			require.NoError(t, <-ended)
		}
	}
}

func TestCallsThatHaveEndedAreNotShownTwoSecondsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		defer runs(t, g)()
		first, second := pass(t, g), pass(t, g)
		require.Equal(t, 2, state(t, g).InFlight)
		done(t, first, gate.Passed, 0)
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, state(t, g).InFlight)
		time.Sleep(time.Minute)
		require.Equal(t, 1, state(t, g).InFlight, "a long call is shown as long as it runs")
		done(t, second, gate.Passed, 0)
		time.Sleep(2 * time.Second)
		require.Zero(t, state(t, g).InFlight)
	})
}

func TestAGateThatWasSetBackShowsThePaceOfTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 300)
		require.NoError(t, g.Set(t.Context(), model, 600))
		require.Equal(t, gate.Pace{PerMinute: 600, Source: "set"}, state(t, g).Pace)
		require.NoError(t, g.Reset(t.Context(), model))
		require.Equal(t, gate.Pace{PerMinute: 300, Source: "catalogue"}, state(t, g).Pace)
		require.Equal(t, "open", state(t, g).Word())
		require.Empty(t, state(t, g).Why)
	})
}

func TestATotalThatWasSetBackShowsThePaceOfTheSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(gate.Config{Redis: redistest.Memory(t), Total: func(kind string) int { return map[string]int{"text": 90}[kind] }})
		require.NoError(t, g.Reset(t.Context(), "text:total"))
		states, err := g.States(t.Context(), "text:total")
		require.NoError(t, err)
		require.Equal(t, gate.Pace{PerMinute: 90, Source: "settings"}, states[0].Pace)
	})
}

func TestTheSeatsOfAllProcessesAreSummed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		for _, g := range []*gate.Gate{gateOn(rdb, 6000), gateOn(rdb, 6000)} {
			for lane, seats := range map[string]int{"interactive": 3, "bulk": 2} {
				_, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Lane: lane, MaxWaiting: seats})
				require.NoError(t, err)
			}
		}
		require.Equal(t, map[string]int{"interactive": 6, "bulk": 4}, state(t, gateOn(rdb, 6000)).MaxWaiting)
	})
}
