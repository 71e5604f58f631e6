package gate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/stretchr/testify/require"
)

func TestAClockThatWasSetBackDoesNotHoldTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gateOn(rdb, 300)
		done(t, pass(t, g), gate.Passed, 0)
		// The leftovers of a clock that was an hour ahead.
		ahead := time.Now().Add(2 * time.Hour).UnixMicro()
		require.NoError(t, rdb.HSet(t.Context(), gate.Key(model), "next", ahead+202_000, "seen", ahead).Err())
		start := time.Now()
		p, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text"})
		require.NoError(t, err)
		done(t, p, gate.Passed, 0)
		require.Less(t, time.Since(start), time.Second)
	})
}
