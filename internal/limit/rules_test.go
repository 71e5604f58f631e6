package limit_test

import (
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A test that passes without the rule it is for shows nothing. Each runs in a process
// of its own, since it is meant to fail there.
func TestEachRulesTestFailsWithoutIt(t *testing.T) {
	if os.Getenv(limit.Without) != "" || os.Getenv("NEURONMILL_TEST_TWINS") == "" {
		t.Skip("takes a while: NEURONMILL_TEST_TWINS=1 runs it")
	}
	for name, rule := range limit.Rules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.True(t, limit.Has(rule.Line), "the rules have no such line")
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+rule.Test+"$", "-test.v", "-test.timeout=20s")
			cmd.Env = append(os.Environ(), limit.Without+"="+name)
			out, err := cmd.CombinedOutput()
			require.Contains(t, string(out), "=== RUN   "+rule.Test+"\n", "there is no such test")
			require.Error(t, err, "%s passes without the rule", rule.Test)
		})
	}
}

func TestAClockThatWasSetBackDoesNotHoldTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Memory(t)
		g := gateOn(rdb, 300)
		done(t, pass(t, g), limit.Passed, 0)
		// What a clock an hour ahead has left behind.
		ahead := time.Now().Add(2 * time.Hour).UnixMicro()
		require.NoError(t, rdb.HSet(t.Context(), limit.Key(model), "next", ahead).Err())
		start := time.Now()
		p, err := g.Pass(t.Context(), limit.Ask{Model: model, Kind: "text"})
		require.NoError(t, err)
		done(t, p, limit.Passed, 0)
		require.Less(t, time.Since(start), time.Second)
	})
}
