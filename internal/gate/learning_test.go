package gate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/stretchr/testify/require"
)

// throttledFlight lets a call meet a refusal, and its probe succeed.
func throttledFlight(t *testing.T, g *gate.Gate) {
	t.Helper()
	done(t, pass(t, g), gate.Throttled, time.Second)
	time.Sleep(time.Second)
	done(t, pass(t, g), gate.Passed, 0)
}

func TestThePaceHealsBy5PercentAMinuteAndBy1PercentNearTheLimit(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60_000)
		throttledFlight(t, g)
		throttledFlight(t, g)
		expected := 0.8
		heal := func(aMinute float64) { expected += aMinute / (60_000 * expected) }
		heal(0.05) // the probe
		for range 1000 {
			done(t, pass(t, g), gate.Passed, 0)
			heal(0.05)
		}
		require.InDelta(t, expected, state(t, g).RateFactor, 1e-6, "far below the pace that broke")

		// It broke at the full pace: from 95 % of that on it is careful.
		rdb := redistest.Memory(t)
		g = gateOn(rdb, 60_000)
		require.NoError(t, rdb.HSet(t.Context(), gate.Key(model), "factor", 0.96, "ceiling", 1).Err())
		expected = 0.96
		for range 1000 {
			done(t, pass(t, g), gate.Passed, 0)
			heal(0.01)
		}
		require.InDelta(t, expected, state(t, g).RateFactor, 1e-6)
	})
}

func TestTwoFlightsAreAPaceTooHighOnlyWithinTwoMinutes(t *testing.T) {
	for after, factor := range map[time.Duration]float64{119 * time.Second: 0.8, 121 * time.Second: 1} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gateOn(redistest.Memory(t), 60)
				start := time.Now()
				throttledFlight(t, g)
				time.Sleep(time.Until(start.Add(after)))
				done(t, pass(t, g), gate.Throttled, time.Second)
				require.InDelta(t, factor, state(t, g).RateFactor, 1e-9)
			})
		})
	}
}

func TestARefusedProbeDoesNotCountAsAFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60)
		done(t, pass(t, g), gate.Throttled, 100*time.Second)
		time.Sleep(100 * time.Second)
		done(t, pass(t, g), gate.Throttled, 10*time.Second) // the probe
		time.Sleep(10 * time.Second)
		done(t, pass(t, g), gate.Passed, 0)
		time.Sleep(20 * time.Second) // 130 s after the flight, 30 s after the probe
		done(t, pass(t, g), gate.Throttled, time.Second)
		require.InDelta(t, 1, state(t, g).RateFactor, 1e-9)
	})
}

func TestTheLearnedPaceHasAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60_000)
		for range 40 {
			throttledFlight(t, g)
		}
		require.InDelta(t, 0.02, state(t, g).RateFactor, 0.0001)
	})
}

func TestAModelWithoutCapacityIsAskedMoreAndMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60_000)
		for _, seconds := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			closing := done(t, pass(t, g), gate.Busy, 0)
			require.GreaterOrEqual(t, closing.For, seconds*time.Second)
			require.LessOrEqual(t, closing.For, seconds*time.Second+500*time.Millisecond)
			time.Sleep(closing.For)
		}
	})
}

func TestNoCapacityNarrowsToHalfOfWhatTheFleetHasInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		a, b := gateOn(rdb, 60_000), gateOn(rdb, 60_000)
		var last *gate.Permit
		for range 6 {
			pass(t, a)
			last = pass(t, b)
		}
		done(t, last, gate.Busy, 0)
		require.Equal(t, 6, state(t, a).Concurrency)
	})
}

func TestTheWidthGrowsByOneAWidthOfSuccesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gateOn(rdb, 60_000)
		require.NoError(t, rdb.HSet(t.Context(), gate.Key(model), "width", 4, "width_from", 100).Err())
		width := 4.0
		for range 50 {
			done(t, pass(t, g), gate.Passed, 0)
			width += 1 / width
		}
		got, err := rdb.HGet(t.Context(), gate.Key(model), "width").Float64()
		require.NoError(t, err)
		require.InDelta(t, width, got, 1e-6)
	})
}

func TestLateRefusalsOfAFlightDoNotLengthenItsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60_000)
		first, late, advised, ended := pass(t, g), pass(t, g), pass(t, g), pass(t, g)
		require.Equal(t, 5*time.Second, done(t, first, gate.Throttled, 0).For)
		time.Sleep(3 * time.Second)
		require.Equal(t, gate.Closing{For: 2 * time.Second, Why: "throttled by the API"}, done(t, late, gate.Throttled, 0))
		require.Equal(t, 2*time.Second, state(t, g).Closed)
		require.Equal(t, 7*time.Second, done(t, advised, gate.Throttled, 7*time.Second).For, "what the API says itself counts")
		require.Zero(t, done(t, ended, gate.Passed, 0).For, "a success says nothing where nothing was learned")
		require.Equal(t, 7*time.Second, state(t, g).Closed)
	})
}

func TestASuccessOfAFlightBeforeTheClosureDoesNotOpenTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gateOn(rdb, 60_000)
		require.NoError(t, rdb.HSet(t.Context(), gate.Key(model), "factor", 0.5).Err())
		refused, late := pass(t, g), pass(t, g)
		done(t, refused, gate.Throttled, 30*time.Second)
		time.Sleep(10 * time.Second)
		require.Equal(t, gate.Closing{For: 20 * time.Second, Why: "throttled by the API"}, done(t, late, gate.Passed, 0))
		require.Equal(t, "closed", state(t, g).Word())
		require.InDelta(t, 0.5, state(t, g).RateFactor, 1e-9)
	})
}

func TestTheDaysQuotaClosesUntilAfterMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		time.Sleep(10 * time.Hour)
		midnight := time.Now().Add(14 * time.Hour)
		spread := map[time.Duration]bool{}
		for range 10 {
			opens := time.Now().Add(done(t, pass(t, g), gate.Quota, 0).For)
			require.False(t, opens.Before(midnight), "workers do not wake before the day has turned")
			require.Less(t, opens.Sub(midnight), 30*time.Second)
			spread[opens.Sub(midnight)] = true
			require.NoError(t, g.Open(t.Context(), gate.Account))
			time.Sleep(time.Second)
		}
		require.Greater(t, len(spread), 5, "and not all at once")
	})
}

func TestAThrottledModelDoesNotCloseTheTotalOfItsKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(gate.Config{
			Redis: redistest.Memory(t), Total: func(string) int { return 600 },
			Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: 600} },
		})
		for _, o := range []gate.Outcome{gate.Throttled, gate.Busy, gate.Refused} {
			done(t, pass(t, g), o, time.Minute)
			p, err := g.Acquire(t.Context(), gate.Request{Model: other, Kind: "text"})
			require.NoError(t, err, o)
			done(t, p, gate.Passed, 0)
			states, err := g.States(t.Context(), "text:total")
			require.NoError(t, err)
			require.Equal(t, "open", states[0].Word())
			require.NoError(t, g.Open(t.Context(), model))
		}
	})
}

func TestWhoWasSentAwayIsNotShownAsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 1)
		pass(t, g)
		require.Zero(t, state(t, g).Interactive)
		for _, lane := range []string{"interactive", "bulk"} {
			_, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Lane: lane})
			require.Error(t, err)
			require.Zero(t, state(t, g).Interactive+state(t, g).Bulk, lane)
		}
		go func() { _, _ = g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Patience: time.Hour}) }()
		synctest.Wait()
		go func() {
			_, _ = g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Lane: "bulk", Patience: time.Hour})
		}()
		synctest.Wait()
		require.Equal(t, 1, state(t, g).Interactive)
		require.Equal(t, 1, state(t, g).Bulk)
		time.Sleep(3 * time.Minute)
		require.Zero(t, state(t, g).Interactive+state(t, g).Bulk)
	})
}

func TestTheGateShowsThePaceThatWorkersWereToldLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		for _, p := range []gate.Pace{{300, "catalogue"}, {600, "catalogue"}, {600, "settings"}} {
			g := gate.New(gate.Config{Redis: rdb, Pace: func(string, string) gate.Pace { return p }})
			pass(t, g)
			require.Equal(t, p, state(t, gateOn(rdb, 1)).Pace)
		}
	})
}

func TestACallerThatComesTooLateForItsTicketAsksAnew(t *testing.T) {
	for late, what := range map[time.Duration]string{
		500 * time.Millisecond: "go", // less than an interval: the slot is still its own
		3 * time.Second:        "wait",
	} {
		synctest.Test(t, func(t *testing.T) {
			rdb := redistest.Memory(t)
			g := gateOn(rdb, 60)
			pass(t, g)
			a := gate.Request{Model: model, Kind: "text", Lane: "interactive", Patience: time.Minute}
			first, wait, err := g.Question(t.Context(), model, a, 0)
			require.NoError(t, err)
			require.Equal(t, "wait", first)
			ticket := time.Now().Add(wait).UnixMicro()
			for range 5 { // others reserve the slots behind it
				_, _, err = g.Question(t.Context(), model, a, 0)
				require.NoError(t, err)
			}
			time.Sleep(wait + late)
			got, _, err := g.Question(t.Context(), model, a, ticket)
			require.NoError(t, err)
			require.Equal(t, what, got, "%s late", late)
		})
	}
}

func TestBulkSavesUpNoShareWhileItDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60) // bulk's share is one slot in 20
		for range 100 {
			done(t, pass(t, g), gate.Passed, 0)
		}
		for range 10 { // a line of interactive callers
			_, _, err := g.Question(t.Context(), model, ask("interactive"), 0)
			require.NoError(t, err)
		}
		turn := state(t, g).NextSlot
		what, _, err := g.Question(t.Context(), model, ask("bulk"), 0)
		require.NoError(t, err)
		require.Equal(t, "wait", what)
		require.Equal(t, turn, state(t, g).NextSlot, "it takes no slot of theirs")
	})
}

func TestBulkWithoutAShareWaitsForAsLongAsInteractiveTakesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(gate.Config{
			Redis: redistest.Memory(t),
			Pace:  func(string, string) gate.Pace { return gate.Pace{PerMinute: 60} },
		})
		end := time.Now().Add(3 * time.Minute)
		for range 3 {
			go func() {
				for time.Now().Before(end) {
					if p, err := g.Acquire(t.Context(), ask("interactive")); err == nil {
						_, _ = p.Release(t.Context(), gate.Passed, 0)
					}
				}
			}()
		}
		synctest.Wait()
		_, err := g.Acquire(t.Context(), ask("bulk"))
		require.NoError(t, err)
		require.True(t, time.Now().After(end))
	})
}
