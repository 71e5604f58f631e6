package limit_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/stretchr/testify/require"
)

func every(perMinute int) func(string, string) int {
	return func(string, string) int { return perMinute }
}

func TestCallsAreSpacedEvenlyAndALittleWiderThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limit.NewLocal(every(60))
		start := time.Now()
		for range 3 {
			require.NoError(t, gate.Wait(t.Context(), limit.Ask{Model: "m"}))
		}
		require.Equal(t, 2020*time.Millisecond, time.Since(start))
	})
}

func TestATurnTooFarAwayIsHandedBackWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limit.NewLocal(every(6))
		require.NoError(t, gate.Wait(t.Context(), limit.Ask{Model: "slow"}))
		err := gate.Wait(t.Context(), limit.Ask{Model: "slow"})
		var pause *limit.PauseError
		require.ErrorAs(t, err, &pause)
		require.Equal(t, limit.Paced, pause.Reason)
		require.Equal(t, time.Now().Add(10100*time.Millisecond), pause.Until)
		require.NoError(t, gate.Wait(t.Context(), limit.Ask{Model: "other"}), "another model is not held up")
		require.NoError(t, gate.Wait(t.Context(), limit.Ask{Model: "slow", Patience: time.Minute}))
	})
}

func TestInteractiveCallersPassBeforeBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limit.NewLocal(every(60))
		require.NoError(t, gate.Wait(t.Context(), limit.Ask{Model: "m"}))
		var (
			mu    sync.Mutex
			order []string
			wg    sync.WaitGroup
		)
		ask := func(name, lane string) {
			wg.Go(func() {
				err := gate.Wait(t.Context(), limit.Ask{Model: "m", Lane: lane, Patience: time.Minute})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					order = append(order, name)
				}
			})
			synctest.Wait()
		}
		ask("bulk 1", "bulk")
		ask("bulk 2", "bulk")
		ask("web 1", "interactive")
		ask("web 2", "interactive")
		wg.Wait()
		require.Equal(t, []string{"web 1", "web 2"}, order[:2])
		require.Len(t, order, 4)
	})
}

func TestAClosedGateLetsNothingThroughUntilItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limit.NewLocal(every(6000))
		until := time.Now().Add(time.Hour)
		require.NoError(t, gate.Close(t.Context(), "m", until, "throttled"))
		var pause *limit.PauseError
		require.ErrorAs(t, gate.Wait(t.Context(), limit.Ask{Model: "m"}), &pause)
		require.Equal(t, until, pause.Until)
		require.Equal(t, "closed: throttled", pause.Reason)
		require.NoError(t, gate.Wait(t.Context(), limit.Ask{Model: "n"}))

		require.NoError(t, gate.Close(t.Context(), "", until.Add(time.Hour), "quota"))
		require.ErrorAs(t, gate.Wait(t.Context(), limit.Ask{Model: "n", Lane: "bulk"}), &pause)
		require.Equal(t, "closed: quota", pause.Reason)
	})
}

func TestAShortClosureIsWaitedOutInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limit.NewLocal(every(6000))
		require.NoError(t, gate.Close(t.Context(), "m", time.Now().Add(2*time.Second), "throttled"))
		for _, lane := range []string{"interactive", "bulk"} {
			require.NoError(t, gate.Wait(t.Context(), limit.Ask{Model: "m", Lane: lane}))
		}
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, gate.Close(t.Context(), "m", start.Add(time.Second), "throttled"))
		require.ErrorIs(t, gate.Wait(ctx, limit.Ask{Model: "m"}), context.Canceled)
	})
}

func TestAPaceOfZeroIsClosed(t *testing.T) {
	gate := limit.NewLocal(every(0))
	var pause *limit.PauseError
	require.ErrorAs(t, gate.Wait(t.Context(), limit.Ask{Model: "m"}), &pause)
	require.Contains(t, pause.Error(), "set to 0")
}
