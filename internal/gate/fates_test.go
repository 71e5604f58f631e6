package gate_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/stretchr/testify/require"
)

// between runs a fleet of bulk callers for some seconds, lets something happen, and gives
// the calls of each second after that.
func between(t *testing.T, f *fleet, callers int, a gate.Request, seconds int, happens func()) []int {
	t.Helper()
	const before = 20 * time.Second
	defer f.until(before + time.Duration(seconds)*time.Second)()
	for i := range f.gates {
		f.callers(i, callers, a)
	}
	time.Sleep(before - time.Since(f.start))
	happens()
	f.wg.Wait()
	var each []int
	for i := range seconds {
		from := before + time.Duration(i)*time.Second
		each = append(each, len(f.made(from, from+time.Second, "")))
	}
	return each
}

func sum(each []int) (n int) {
	for _, x := range each {
		n += x
	}
	return n
}

func TestProcessesThatDieInLineCostAtMostASlotEach(t *testing.T) {
	realtest.Long(t)
	for _, lost := range []bool{false, true} {
		for _, perMinute := range []int{300, 1200} {
			t.Run(fmt.Sprint(perMinute, " a minute, lost host ", lost), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, perMinute, 32, 0.05)
					each := between(t, f, 4, ask("bulk"), 20, func() {
						for i := range 8 {
							f.kill(4*i, lost)
						}
					})
					t.Log(each)
					possible := perMinute / 3 * 100 / 101
					if lost {
						require.GreaterOrEqual(t, sum(each), possible-12)
					} else {
						require.GreaterOrEqual(t, sum(each), possible-5)
					}
					require.LessOrEqual(t, f.most(), perMinute)
					time.Sleep(3 * time.Second)
					after := state(t, gate.New(gate.Config{Redis: f.redis}))
					require.Zero(t, after.InFlight)
					require.Zero(t, after.Bulk)
				})
			})
		}
	}
}

func TestNeighboursOfALostHostDoNotStopTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 300, 24, 0.05)
		each := between(t, f, 4, ask("bulk"), 20, func() {
			for i := range 8 {
				f.kill(i, true)
			}
		})
		t.Log(each)
		require.GreaterOrEqual(t, sum(each), 99-17)
	})
}

func TestProcessesThatComeLateCostLittle(t *testing.T) {
	realtest.Long(t)
	for _, c := range []struct {
		perMinute int
		seldom    time.Duration // one question in twenty is so much later than the others
		used      float64
	}{{300, 600 * time.Millisecond, 0.958}, {3000, 150 * time.Millisecond, 0.965}} {
		t.Run(fmt.Sprint(c.perMinute), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, c.perMinute, 32, 0.05)
				f.net.mu.Lock()
				f.net.usual, f.net.seldom = 80*time.Millisecond, c.seldom
				f.net.mu.Unlock()
				first, last := time.Minute, 21*time.Minute
				if c.perMinute == 3000 {
					first, last = 10*time.Second, 40*time.Second
				}
				defer f.until(last)()
				for i := range 32 {
					f.bulk(i, 4)
				}
				f.wg.Wait()
				t.Logf("used %.2f %%, most %d", 100*f.used(first, last), f.most())
				require.Greater(t, f.used(first, last), c.used)
				require.LessOrEqual(t, f.most(), c.perMinute)
			})
		})
	}
}

func TestAClosureReachesThoseInLineAtOnceAndTheyComeBackAtOnce(t *testing.T) {
	realtest.Long(t)
	for _, perMinute := range []int{300, 1200} {
		t.Run(fmt.Sprint(perMinute), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, perMinute, 48, 0.05)
				left := 0
				each := between(t, f, 2, ask("bulk"), 16, func() {
					scripts := f.net.questions()
					p, err := f.gates[0].Acquire(t.Context(), ask("interactive"))
					require.NoError(t, err)
					_, err = p.Release(t.Context(), gate.Throttled, 8*time.Second)
					require.NoError(t, err)
					_, err = f.gates[1].Acquire(t.Context(), gate.Request{Model: model, Kind: "text", Lane: "bulk"})
					require.Error(t, err, "who is not patient leaves")
					time.Sleep(7 * time.Second)
					left = f.net.questions() - scripts
				})
				t.Log(each, left)
				require.LessOrEqual(t, sum(each[1:8]), 0)
				require.Less(t, left, 48*4, "each process hears of it once")
				require.GreaterOrEqual(t, each[8]+each[9], perMinute/60)
				require.GreaterOrEqual(t, sum(each[10:]), perMinute/10*97/100)
			})
		})
	}
}

func TestImpatientCallersInLineLeaveAClosedGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 300, 20, 0.05)
		defer f.until(time.Minute)()
		gone := make(chan time.Time, 20)
		for i := range 20 {
			f.wg.Go(func() {
				for {
					p, err := f.gates[i].Acquire(f.ctx, gate.Request{Model: model, Kind: "text", Lane: "bulk"})
					if err != nil {
						gone <- time.Now()
						return
					}
					_, _ = p.Release(f.ctx, gate.Passed, 0)
				}
			})
		}
		time.Sleep(10 * time.Second)
		p, err := f.gates[0].Acquire(t.Context(), ask("interactive"))
		require.NoError(t, err)
		closed := time.Now()
		done(t, p, gate.Throttled, time.Minute)
		f.wg.Wait()
		for range 20 {
			require.Less(t, (<-gone).Sub(closed), 500*time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		require.Zero(t, state(t, f.gates[0]).Bulk)
		waiting, err := f.redis.Exists(t.Context(), gate.Key(model)+":line").Result()
		require.NoError(t, err)
		require.Zero(t, waiting, "nobody is left in line")
	})
}

func TestANewPaceHoldsAtOnceForAllThatWait(t *testing.T) {
	realtest.Long(t)
	for _, c := range []struct {
		from, to int
		lane     string
	}{{300, 3000, "bulk"}, {3000, 300, "bulk"}, {20, 3000, "bulk"}, {300, 3000, "interactive"}, {20, 3000, "interactive"}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, c.from, 32, 0.05)
				each := between(t, f, 2, ask(c.lane), 5, func() {
					require.NoError(t, f.gates[0].Set(t.Context(), model, c.to))
				})
				t.Log(each)
				for i, n := range each {
					require.InDelta(t, c.to/60, n, float64(c.to/60)/10+3, "second %d", i)
				}
			})
		})
	}
}

func TestAFleetOutlivesTheLossOfRedis(t *testing.T) {
	t.Run("wiped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 300, 16, 0.05)
			each := between(t, f, 2, ask("bulk"), 15, f.server.Wipe)
			t.Log(each)
			require.GreaterOrEqual(t, sum(each), 74-6)
			require.LessOrEqual(t, f.most(), 300)
		})
	})
	t.Run("away for three seconds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 300, 16, 0.05)
			each := between(t, f, 2, ask("bulk"), 20, func() {
				for _, l := range f.links {
					l.Cut()
				}
				time.Sleep(3 * time.Second)
				for _, l := range f.links {
					l.Mend()
				}
			})
			t.Log(each)
			require.GreaterOrEqual(t, sum(each[4:]), 79-6)
			require.LessOrEqual(t, f.most(), 300)
		})
	})
	t.Run("messages are lost for a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 300, 16, 0.05)
			each := between(t, f, 2, ask("bulk"), 30, func() {
				for _, l := range f.links[:8] { // their subscriptions break too
					l.Cut()
					l.Mend()
				}
			})
			t.Log(each)
			require.GreaterOrEqual(t, sum(each), 148-6)
			require.LessOrEqual(t, f.most(), 300)
		})
	})
}

func TestWithoutMessagesAFleetAsksByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		var gates []*gate.Gate
		for range 20 {
			gates = append(gates, gateOn(rdb, 300)) // none of them runs
		}
		start := time.Now()
		times := crowd(t, 200, "bulk", gates...)
		require.Less(t, time.Since(start), 200*202*time.Millisecond*100/97)
		require.GreaterOrEqual(t, times[199], 199*202*time.Millisecond-50*time.Millisecond)
	})
}

func TestCancelledCallersLoseNoSlots(t *testing.T) {
	realtest.Long(t)
	for lane, least := range map[string]float64{"bulk": 0.97, "interactive": 0.95} {
		t.Run(lane, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 300, 20, 0.05)
				defer f.until(time.Minute)()
				for i := range 10 {
					f.bulk(i, 2)
				}
				for i := range 10 {
					f.wg.Go(func() {
						for f.ctx.Err() == nil {
							ctx, cancel := context.WithTimeout(f.ctx, 300*time.Millisecond)
							if p, err := f.gates[10+i].Acquire(ctx, ask(lane)); err == nil {
								f.mu.Lock()
								f.calls = append(f.calls, call{time.Now(), lane, 10 + i, 0})
								f.mu.Unlock()
								_, _ = p.Release(f.ctx, gate.Passed, 0)
							}
							cancel()
							time.Sleep(500 * time.Millisecond)
						}
					})
				}
				f.wg.Wait()
				t.Logf("used %.2f %%", 100*f.used(10*time.Second, time.Minute))
				require.Greater(t, f.used(10*time.Second, time.Minute), least)
				require.LessOrEqual(t, f.most(), 300)
			})
		})
	}
}

func TestANarrowGateIsNotPolledByEveryCaller(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 60_000, 64, 0.05)
		require.NoError(t, f.redis.HSet(t.Context(), gate.Key(model), "width", 2, "width_from", 100).Err())
		defer f.until(20 * time.Second)()
		for i := range 64 {
			for range 2 {
				f.wg.Go(func() {
					for f.ctx.Err() == nil {
						if p, err := f.gates[i].Acquire(f.ctx, ask("bulk")); err == nil {
							time.Sleep(5 * time.Second)
							_, _ = p.Release(context.WithoutCancel(f.ctx), gate.Ended, 0)
						}
					}
				})
			}
		}
		time.Sleep(3 * time.Second)
		before := f.net.questions()
		time.Sleep(2 * time.Second)
		asked := f.net.questions() - before
		start := time.Now()
		p, err := f.gates[0].Acquire(f.ctx, ask("interactive"))
		require.NoError(t, err)
		require.Less(t, time.Since(start), 5200*time.Millisecond, "interactive has the first place that is free")
		done(t, p, gate.Ended, 0)
		f.wg.Wait()
		require.Less(t, asked, 1300, "questions in two seconds; 64 processes that poll at 50 ms make 2560")
	})
}

func TestImpatientCallersInLineLeaveANarrowGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 6000, 40, 0.05)
		require.NoError(t, f.redis.HSet(t.Context(), gate.Key(model), "width", 1, "width_from", 100).Err())
		defer f.until(time.Minute)()
		_, err := f.gates[0].Acquire(t.Context(), ask("interactive")) // a long call
		require.NoError(t, err)
		start := time.Now()
		for i := range 40 {
			f.wg.Go(func() {
				_, err := f.gates[i].Acquire(f.ctx, gate.Request{Model: model, Kind: "text", Lane: "bulk"})
				pause, ok := errors.AsType[*gate.RetryLaterError](err)
				if !ok || pause.Reason != "the model has little capacity" || !pause.Until.After(time.Now()) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		f.wg.Wait()
		require.InDelta(t, gate.Patience.Seconds(), time.Since(start).Seconds(), 1.1)
	})
}

func TestBulkYieldsANarrowGateToInteractive(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 60_000, 10, 0.05)
		require.NoError(t, f.redis.HSet(t.Context(), gate.Key(model), "width", 1, "width_from", 100).Err())
		stop := f.until(time.Minute)
		defer stop()
		for i := range 9 {
			f.wg.Go(func() {
				for f.ctx.Err() == nil {
					if p, err := f.gates[i].Acquire(f.ctx, ask("bulk")); err == nil {
						time.Sleep(500 * time.Millisecond)
						_, _ = p.Release(context.WithoutCancel(f.ctx), gate.Ended, 0)
					}
				}
			})
		}
		waited := time.Duration(0)
		for range 20 {
			time.Sleep(1100 * time.Millisecond)
			start := time.Now()
			p, err := f.gates[9].Acquire(f.ctx, ask("interactive"))
			require.NoError(t, err)
			waited = max(waited, time.Since(start))
			_, _ = p.Release(t.Context(), gate.Ended, 0)
		}
		require.Less(t, waited, 700*time.Millisecond, "it has the place as soon as one call of bulk has ended")
		require.Greater(t, state(t, f.gates[0]).Calls, 50, "and bulk has it the rest of the time")
		stop()
		f.wg.Wait()
	})
}

func TestAReservationIsVoidAfterTheGateHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 60)
		pass(t, g)
		_, wait, err := g.Question(t.Context(), model, ask("interactive"), 0)
		require.NoError(t, err)
		slot := time.Now().Add(wait).UnixMicro()
		require.NoError(t, g.Set(t.Context(), model, 1))
		pass(t, g)
		time.Sleep(wait)
		what, _, err := g.Question(t.Context(), model, ask("interactive"), slot)
		require.NoError(t, err)
		require.Equal(t, "wait", what)
	})
}

func TestFiguresAreRightAfterADeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 6000, 8, 0.05)
		defer f.until(time.Minute)()
		for _, g := range f.gates {
			pass(t, g)
			pass(t, g)
		}
		for i := range 4 {
			f.kill(i, false)
		}
		time.Sleep(14 * time.Second)
		p, err := f.gates[7].Acquire(t.Context(), ask("interactive"))
		require.NoError(t, err)
		time.Sleep(4 * time.Second)
		_, err = f.gates[7].Acquire(t.Context(), ask("interactive"))
		require.NoError(t, err)
		flight, err := f.redis.HGet(t.Context(), gate.Key(model), "flight").Int()
		require.NoError(t, err)
		require.Equal(t, 10, flight)
		require.Equal(t, 10, state(t, f.gates[7]).InFlight)
		done(t, p, gate.Passed, 0)
	})
}
