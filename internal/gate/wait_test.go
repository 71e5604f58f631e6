package gate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestACallerWithoutPatienceIsSentAwayWithATimeInTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 300)
		for _, lane := range []string{"interactive", "bulk"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			start := time.Now()
			_, err := g.Acquire(ctx, gate.Request{Model: model, Kind: "text", Lane: lane, Patience: -time.Second})
			var pause *gate.RetryLaterError
			require.ErrorAs(t, err, &pause)
			require.True(t, pause.Until.After(time.Now()))
			require.Zero(t, time.Since(start), "it does not wait")
			cancel()
		}
		require.Zero(t, state(t, g).Calls)
	})
}

func TestAPatientCallerAtAGateThatIsSetToZeroLeavesWhenItsPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 300)
		require.NoError(t, g.Set(t.Context(), model, 0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		_, err := g.Acquire(ctx, gate.Request{Model: model, Kind: "text", Patience: 90 * time.Second})
		var pause *gate.RetryLaterError
		require.ErrorAs(t, err, &pause)
		require.True(t, pause.Until.After(time.Now()))
		require.WithinDuration(t, start.Add(90*time.Second), time.Now(), time.Second)
	})
}

func TestAPatientCallerHearsOfAnOpenedGateWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOn(redistest.Memory(t), 300)
		done(t, pass(t, g), gate.Throttled, 10*time.Minute)
		passed := make(chan time.Time, 1)
		go func() {
			_, _ = g.Acquire(t.Context(), ask("interactive"))
			passed <- time.Now()
		}()
		time.Sleep(time.Minute)
		require.NoError(t, g.Open(t.Context(), model))
		opened := time.Now()
		require.Less(t, (<-passed).Sub(opened), 6*time.Second)
	})
}

// randomState writes fields of a gate that random times, steps and processes left.
func randomState(ctx context.Context, t *testing.T, rdb *redis.Client, r *rand.Rand) {
	t.Helper()
	now := time.Now().UnixMicro()
	near := func() int64 {
		span := []int64{1, 1_000, 100_000, 5_000_000, 3_600_000_000}[r.IntN(5)]
		return now + r.Int64N(2*span+1) - span
	}
	pipe := rdb.TxPipeline()
	pipe.Del(ctx, gate.Key(model), gate.Key(model)+":line")
	for field, value := range map[string]func() any{
		"next": func() any { return near() }, "closed": func() any { return near() }, "hold": func() any { return near() },
		"probe": func() any { return near() }, "shut": func() any { return near() }, "seen": func() any { return near() },
		"factor": func() any { return 0.02 + 0.98*r.Float64() }, "width": func() any { return 1 + 4*r.Float64() },
		"set": func() any { return r.IntN(4) * r.IntN(100_000) }, "credit": func() any { return 2 * r.Float64() },
		"auth": func() any { return 1 + r.IntN(6) }, "fails": func() any { return 1 + r.IntN(6) },
		"flight": func() any { return r.IntN(5) }, "interactive": func() any { return r.IntN(5) }, "bulk": func() any { return r.IntN(5) },
		"era": func() any { return r.IntN(2) }, "lined": func() any { return r.IntN(3) }, "swept": func() any { return near() },
		"kept": func() any { return fmt.Sprintf("%df %db %df", near(), near(), near()) },
		"called": func() any {
			return fmt.Sprintf("one %d 1;two %d 0;three %d 1;four %d 1;", near(), near(), now+10, near()+100_000)
		},
		"p:other": func() any { return []any{now, r.IntN(5), r.IntN(5), r.IntN(5), 0, 0} },
	} {
		if r.IntN(3) == 0 {
			v := value()
			if list, ok := v.([]any); ok {
				v = join(list)
			}
			pipe.HSet(ctx, gate.Key(model), field, v)
		}
	}
	_, err := pipe.Exec(ctx)
	require.NoError(t, err)
}

func TestNoReplyButGoHasAWaitOfZeroOrLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		r := rand.New(rand.NewPCG(1, 2))
		words := map[string]int{}
		for range 1000 {
			g := gateOn(rdb, []int{0, 1, 20, 300, 60_000, 1_000_000_000}[r.IntN(6)])
			if r.IntN(2) == 0 {
				g.Listen()
			}
			randomState(t.Context(), t, rdb, r)
			a := gate.Request{
				Model: model, Kind: "text", Lane: []string{"interactive", "bulk"}[r.IntN(2)],
				Patience: time.Duration(r.Int64N(int64(time.Hour))) - time.Hour/time.Duration(1+r.IntN(2)*1000),
			}
			ticket := int64(0)
			if r.IntN(2) == 0 {
				ticket = time.Now().UnixMicro() + r.Int64N(4_000_000) - 2_000_000
			}
			for range 3 {
				what, wait, err := g.Question(t.Context(), model, a, ticket)
				require.NoError(t, err)
				words[what]++
				if what != "go" {
					require.Positive(t, wait, "%s: %+v", what, a)
				}
			}
			time.Sleep(time.Duration(r.Int64N(int64(10 * time.Millisecond))))
		}
		require.Len(t, words, 6, "the states cover every answer: %v", words)
	})
}
