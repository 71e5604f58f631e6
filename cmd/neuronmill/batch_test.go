package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestAKilledBatchRunContinuesAndPaysNothingTwice(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	withAndWithoutAServer(t, func(t *testing.T, path string) {
		ai := workersaitest.New(workersaitest.Options{KeepBodies: 1 << 30})
		api := httptest.NewServer(ai)
		t.Cleanup(api.Close)
		dir := t.TempDir()
		const lines = 3_000
		var input strings.Builder
		for n := range lines {
			fmt.Fprintf(&input, "text %d\n", n)
		}
		file, out := filepath.Join(dir, "texts.txt"), filepath.Join(dir, "vectors.jsonl")
		require.NoError(t, os.WriteFile(file, []byte(input.String()), 0o600))
		run := func() *process {
			return begin(t, path, dir, "", []string{"NEURONMILL_EMULATOR_URL=" + api.URL}, "batch", "run", file, "--kind", "embedding", "-o", out)
		}

		// After seven calls the API hangs, so that none is under way that may be billed. The
		// seven results are too few for a shard.
		const answered = 7
		ai.Fault(workersaitest.Fault{Kind: "embedding", From: answered + 1, Hang: true})
		first := run()
		require.Eventually(t, func() bool {
			found, err := filepath.Glob(filepath.Join(dir, "bucket", "default", "tasks", "*", "result.json"))
			return err == nil && len(found) == answered
		}, 2*time.Minute, 20*time.Millisecond, first.stderr.String())
		require.NoError(t, first.Process.Kill())
		<-first.done
		require.NoFileExists(t, out)
		ai.Heal()

		second := run()
		require.Zero(t, second.ended(t), second.stderr.String())
		require.Contains(t, second.stderr.String(), "completed: 3000 completed, 0 failed")
		texts := map[string]int{}
		calls := 0
		for _, q := range ai.Requests() {
			var body struct{ Text []string }
			if q.Billed {
				require.NoError(t, json.Unmarshal(q.Body, &body))
				calls++
				for _, text := range body.Text {
					texts[text]++
				}
			}
		}
		require.Equal(t, lines/100, calls)
		require.Len(t, texts, lines)
		for text, n := range texts {
			require.Equal(t, 1, n, text)
		}
		output, err := os.ReadFile(out)
		require.NoError(t, err)
		n := 0
		for line := range strings.Lines(string(output)) {
			n++
			require.True(t, strings.HasPrefix(line, fmt.Sprintf(`{"id":"%d","status":"completed","output":{"dimensions":768,"vectors":[[`, n)), line[:60])
		}
		require.Equal(t, lines, n)

		third := run()
		require.Zero(t, third.ended(t), third.stderr.String())
		again, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, string(output), string(again))
		require.Less(t, len(ai.Requests()), lines, "a finished file costs nothing")
	})
}
