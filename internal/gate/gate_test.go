package gate_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const model = "@cf/a/model"

func gateOn(rdb redis.UniversalClient, perMinute int) *gate.Gate {
	return gate.New(gate.Config{
		Redis: rdb, BulkShare: 0.05,
		Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: perMinute, Source: "catalogue"} },
	})
}

func ask(lane string) gate.Request {
	return gate.Request{Model: model, Kind: "text", Lane: lane, Patience: time.Hour}
}

func pass(t *testing.T, g *gate.Gate) *gate.Permit {
	t.Helper()
	p, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Patience: time.Minute})
	require.NoError(t, err)
	return p
}

func done(t *testing.T, p *gate.Permit, o gate.Outcome, advice time.Duration) gate.Closing {
	t.Helper()
	c, err := p.Release(t.Context(), o, advice)
	require.NoError(t, err)
	return c
}

func state(t *testing.T, g *gate.Gate) gate.State {
	t.Helper()
	states, err := g.States(t.Context(), model)
	require.NoError(t, err)
	return states[0]
}

func paused(t *testing.T, g *gate.Gate) *gate.RetryLaterError {
	t.Helper()
	_, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text"})
	var pause *gate.RetryLaterError
	require.ErrorAs(t, err, &pause)
	return pause
}

// crowd has n callers pass as fast as the gates let them, and gives the times.
func crowd(t *testing.T, n int, lane string, gates ...*gate.Gate) []time.Duration {
	t.Helper()
	var (
		mu    sync.Mutex
		times []time.Duration
		wg    sync.WaitGroup
		start = time.Now()
	)
	for i := range n {
		wg.Go(func() {
			p, err := gates[i%len(gates)].Acquire(t.Context(), ask(lane))
			if err != nil {
				return
			}
			mu.Lock()
			times = append(times, time.Since(start))
			mu.Unlock()
			_, _ = p.Release(t.Context(), gate.Passed, 0)
		})
	}
	wg.Wait()
	require.Len(t, times, n)
	return times
}

func TestAFleetKeepsToThePaceAndUsesIt(t *testing.T) {
	realtest.Long(t)
	for _, lane := range []string{"interactive", "bulk"} {
		for _, workers := range []int{1, 4} {
			t.Run(fmt.Sprint(lane, " ", workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rdb := redistest.Memory(t)
					var gates []*gate.Gate
					for range workers {
						gates = append(gates, gateOn(rdb, 300))
					}
					times := crowd(t, 601, lane, gates...)
					took := times[600]
					require.GreaterOrEqual(t, took, 600*202*time.Millisecond-50*time.Millisecond)
					require.Less(t, took, 2*time.Minute*100/97)
					for i := range times[:301] {
						require.GreaterOrEqual(t, times[i+300]-times[i], time.Minute, "more than the limit in a minute")
					}
				})
			})
		}
	}
}

func TestInteractiveWaitsAtMostOneSlotBehindBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		workers := []*gate.Gate{gateOn(rdb, 300), gateOn(rdb, 300)}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if p, err := workers[i%2].Acquire(ctx, ask("bulk")); err == nil {
						_, _ = p.Release(ctx, gate.Passed, 0)
					}
				}
			})
		}
		web := gateOn(rdb, 300)
		for i := range 30 {
			time.Sleep(time.Duration(1500+37*i) * time.Millisecond)
			start := time.Now()
			done(t, pass(t, web), gate.Passed, 0)
			require.LessOrEqual(t, time.Since(start), 203*time.Millisecond)
		}
		cancel()
		wg.Wait()
	})
}

func TestBulkKeepsItsShareWhenInteractiveTakesAll(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 300)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var (
			mu     sync.Mutex
			passed = map[string]int{}
			wg     sync.WaitGroup
		)
		for i, lane := range []string{"interactive", "interactive", "interactive", "bulk", "bulk"} {
			wg.Go(func() {
				_ = i
				for ctx.Err() == nil {
					if p, err := g.Acquire(ctx, ask(lane)); err == nil {
						mu.Lock()
						passed[lane]++
						mu.Unlock()
						_, _ = p.Release(context.WithoutCancel(ctx), gate.Passed, 0)
					}
				}
			})
		}
		wg.Wait()
		require.InDelta(t, 0.05*594, passed["bulk"], 6)
		require.Greater(t, passed["interactive"], 550)
	})
}

func TestOneRefusalClosesTheGateForAllAndOneProbeOpensIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		a, b := gateOn(rdb, 6000), gateOn(rdb, 6000)
		first, second := pass(t, a), pass(t, b)
		closing := done(t, first, gate.Throttled, 30*time.Second)
		require.True(t, closing.New)
		require.Equal(t, 30*time.Second, closing.For)
		require.False(t, done(t, second, gate.Throttled, 20*time.Second).New, "the same flight")
		require.Equal(t, "throttled by the API", paused(t, b).Reason)
		require.Equal(t, "closed", state(t, a).Word())

		time.Sleep(30 * time.Second)
		start := time.Now()
		probe := pass(t, b)
		require.Zero(t, time.Since(start))
		require.Equal(t, "probing", state(t, a).Word())
		var wg sync.WaitGroup
		wg.Go(func() { done(t, pass(t, a), gate.Passed, 0) })
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		require.Equal(t, 3, state(t, a).Calls, "nobody passes beside the probe")
		done(t, probe, gate.Passed, 0)
		wg.Wait()
		require.Less(t, time.Since(start), 600*time.Millisecond)
		require.Equal(t, "open", state(t, a).Word())
		require.Equal(t, 2, state(t, a).Throttled)
	})
}

func TestAProbeThatDiesDoesNotHoldTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		done(t, pass(t, g), gate.Throttled, time.Second)
		time.Sleep(time.Second)
		_ = pass(t, g) // its worker is killed
		start := time.Now()
		pass(t, g)
		require.LessOrEqual(t, time.Since(start), 2100*time.Millisecond)
	})
}

func TestARefusedProbeClosesForLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 300)
		for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
			require.Equal(t, want*time.Second, done(t, pass(t, g), gate.Throttled, 0).For)
		}
		require.InDelta(t, 1, state(t, g).RateFactor, 1e-9, "probes say nothing about the pace")
	})
}

func TestThePaceFallsOncePerFlightAndHeals(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60)
		flight := func() {
			var places []*gate.Permit
			for range 5 {
				places = append(places, pass(t, g))
			}
			for _, p := range places {
				done(t, p, gate.Throttled, time.Second)
			}
			time.Sleep(time.Second)
			done(t, pass(t, g), gate.Passed, 0) // the probe
		}
		flight()
		require.InDelta(t, 1, state(t, g).RateFactor, 1e-9, "one flight may be a chance")
		flight()
		require.InDelta(t, 0.8, state(t, g).RateFactor, 0.002)
		require.Equal(t, "learned", state(t, g).Word())
		for range 5 * 48 {
			done(t, pass(t, g), gate.Passed, 0)
		}
		require.InDelta(t, 0.97, state(t, g).RateFactor, 0.03)
		for range 10 * 60 {
			done(t, pass(t, g), gate.Passed, 0)
		}
		require.Equal(t, "open", state(t, g).Word())
	})
}

func TestNoCapacityNarrowsAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60000)
		var places []*gate.Permit
		for range 8 {
			places = append(places, pass(t, g))
		}
		for _, p := range places {
			done(t, p, gate.Busy, 0)
		}
		require.Equal(t, 4, state(t, g).Concurrency)
		time.Sleep(3 * time.Second)
		done(t, pass(t, g), gate.Passed, 0)
		places = places[:0]
		for range 4 {
			places = append(places, pass(t, g))
		}
		require.Equal(t, "the model has little capacity", paused(t, g).Reason)
		for _, p := range places {
			done(t, p, gate.Passed, 0)
		}
		for range 200 {
			done(t, pass(t, g), gate.Passed, 0)
		}
		require.Equal(t, "open", state(t, g).Word())
	})
}

func TestASpentDayClosesAllModelsUntilMidnightOfRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		time.Sleep(23*time.Hour + 59*time.Minute) // the bubble begins at midnight
		early, late := pass(t, g), pass(t, g)
		require.True(t, done(t, early, gate.Quota, 0).New)
		_, err := g.Acquire(t.Context(), gate.Request{Model: "@cf/other/model", Kind: "image"})
		var pause *gate.RetryLaterError
		require.ErrorAs(t, err, &pause)
		require.Contains(t, pause.Reason, "00:00 UTC")
		time.Sleep(2 * time.Minute)
		closing := done(t, late, gate.Quota, 0)
		require.Less(t, closing.For, 10*time.Minute, "an answer from yesterday does not close today")
		time.Sleep(closing.For)
		closing = done(t, pass(t, g), gate.Quota, 0)
		require.Less(t, closing.For, 10*time.Minute, "the API may not have turned the page yet")
		time.Sleep(10 * time.Minute)
		done(t, pass(t, g), gate.Passed, 0)
	})
}

func TestARefusedAccountIsProbedAfter1And2And5AndEvery15Minutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		require.Equal(t, 2*time.Second, done(t, pass(t, g), gate.Refused, 0).For)
		done(t, pass(t, g), gate.Passed, 0)
		require.Equal(t, 2*time.Second, done(t, pass(t, g), gate.Refused, 0).For, "a success in between begins anew")
		for i, minutes := range []time.Duration{1, 2, 5, 15, 15} {
			probe := pass(t, g)
			require.Equal(t, gate.Closing{For: minutes * time.Minute, New: i == 0, Why: "the account is refused"},
				done(t, probe, gate.Refused, 0), "a person is told once")
			require.Equal(t, "held", state(t, g).Word())
			require.Equal(t, "the account is refused", paused(t, g).Reason)
			require.WithinDuration(t, time.Now().Add(minutes*time.Minute), paused(t, g).Until, time.Second)
			require.Zero(t, state(t, g).Room("bulk"), "deferred tasks stay away until the probe is due")
			time.Sleep(minutes * time.Minute)
			require.Equal(t, 1, state(t, g).Room("bulk"), "one comes back for the probe")
		}
		probe := pass(t, g)
		calls := state(t, g).Calls
		_, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Patience: time.Second})
		require.Error(t, err)
		require.Equal(t, calls, state(t, g).Calls, "nobody passes beside the probe")
		done(t, probe, gate.Passed, 0)
		require.Equal(t, "open", state(t, g).Word())
		require.Equal(t, 2*time.Second, done(t, pass(t, g), gate.Refused, 0).For, "the steps begin anew")
	})
}

func TestAHeldGateIsOpenedByAPersonAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		done(t, pass(t, g), gate.Refused, 0)
		done(t, pass(t, g), gate.Refused, 0)
		require.Equal(t, "held", state(t, g).Word())
		start := time.Now()
		require.NoError(t, g.Open(t.Context(), model))
		pass(t, g)
		require.Zero(t, time.Since(start))
		require.Equal(t, "open", state(t, g).Word())
	})
}

func TestAHeldGateWhoseProbeDiesStaysAtItsStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 6000)
		done(t, pass(t, g), gate.Refused, 0)
		done(t, pass(t, g), gate.Refused, 0)
		time.Sleep(time.Minute)
		_ = pass(t, g) // its worker is killed
		require.Equal(t, 2*time.Minute, done(t, pass(t, g), gate.Refused, 0).For)
	})
}

func TestAHoldOfAnEarlierVersionIsProbedAMinuteAfterItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gateOn(rdb, 6000)
		require.NoError(t, rdb.HSet(t.Context(), gate.Key(model), "hold", time.Now().UnixMicro(), "auth", 1, "why", "the account is refused").Err())
		time.Sleep(40 * time.Second)
		require.Equal(t, 20*time.Second, state(t, g).Closed)
		require.WithinDuration(t, time.Now().Add(20*time.Second), paused(t, g).Until, time.Second)
		time.Sleep(20 * time.Second)
		done(t, pass(t, g), gate.Passed, 0)
		require.Equal(t, "open", state(t, g).Word())
	})
}

func TestThePaceCanBeSetForTheWholeFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		a, b := gateOn(rdb, 1), gateOn(rdb, 1)
		pass(t, a)
		require.Equal(t, gate.Paced, paused(t, b).Reason)
		require.NoError(t, a.Set(t.Context(), model, 600))
		times := crowd(t, 101, "bulk", b)
		require.InDelta(t, 10.1, times[100].Seconds(), 0.1)
		require.Equal(t, gate.Pace{PerMinute: 600, Source: "set"}, state(t, b).Pace)

		require.NoError(t, a.Set(t.Context(), model, 0))
		require.Equal(t, "its pace is set to 0", paused(t, b).Reason)
		require.Equal(t, "closed", state(t, b).Word())
		require.NoError(t, a.Set(t.Context(), model, 1_000_000_000))
		crowd(t, 500, "interactive", a, b)
		require.NoError(t, a.Reset(t.Context(), model))
		pass(t, b)
		require.Equal(t, gate.Paced, paused(t, a).Reason)
	})
}

func TestATotalHoldsAllModelsOfAKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(gate.Config{
			Redis: redistest.Memory(t), Total: func(string) int { return 60 },
			Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: 6000} },
		})
		start := time.Now()
		for i := range 11 {
			p, err := g.Acquire(t.Context(), gate.Request{Model: fmt.Sprint("@cf/a/m", i%3), Kind: "embedding", Patience: time.Hour})
			require.NoError(t, err)
			done(t, p, gate.Passed, 0)
		}
		require.InDelta(t, 10.1, time.Since(start).Seconds(), 0.1)
	})
}

func TestALongLineIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60)
		pass(t, g)
		var wg sync.WaitGroup
		away := make(chan error, 20)
		for range 20 {
			wg.Go(func() {
				_, err := g.Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Lane: "bulk"})
				away <- err
			})
			synctest.Wait()
		}
		wg.Wait()
		close(away)
		sent := 0
		for err := range away {
			if err != nil {
				sent++
			}
		}
		require.InDelta(t, 17, sent, 1, "three seconds at one a second")
	})
}

func TestADeadWorkersCallsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		dead, alive := gateOn(rdb, 60000), gateOn(rdb, 60000)
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = alive.Run(ctx) }()
		held := pass(t, alive)
		first := pass(t, dead)
		pass(t, dead)
		done(t, first, gate.Busy, 0)
		time.Sleep(20 * time.Second)
		require.Equal(t, 1, state(t, alive).InFlight, "the living one's call counts, the dead one's does not")
		start := time.Now()
		done(t, held, gate.Passed, 0)
		pass(t, alive)
		require.Less(t, time.Since(start), time.Second)
		stop()
		synctest.Wait()
	})
}

func TestADeletedGateBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gateOn(rdb, 300)
		p := pass(t, g)
		require.NoError(t, rdb.FlushAll(t.Context()).Err())
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		done(t, p, gate.Throttled, time.Second)
		times := crowd(t, 10, "interactive", g)
		require.Less(t, times[9], 4*time.Second)
	})
}

// join is a list as a field of Redis has it.
func join(list []any) string {
	return strings.TrimSpace(fmt.Sprintln(list...))
}
