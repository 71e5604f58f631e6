package batch_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// TestABatchStopsItselfWhenTooManyLinesFail: little more is paid for after the limit. A
// retry runs the rest, with a share of its own.
func TestABatchStopsItselfWhenTooManyLinesFail(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.work()
		const lines = 800
		text := ""
		for i := range lines {
			quality := "good"
			if i%4 == 0 {
				quality = "bad"
			}
			text += fmt.Sprintf(`{"id":"row-%d","kind":"text","input":{"prompt":"%s %d"}}`+"\n", i, quality, i)
		}
		r.ai.Fault(workersaitest.Fault{Contains: "bad", Code: 5006})
		var limit batch.AutoStop
		require.NoError(t, limit.UnmarshalText([]byte("failed > 10 %")))
		id := r.accept(text, batch.AcceptOptions{AutoStop: limit})
		end := r.drive(id)
		require.Equal(t, batch.Stopped, end.Status)
		require.Regexp(t, `^\d+ of the first \d+ lines failed, more than 10 %$`, end.Why)
		require.Equal(t, lines, end.Completed+end.Failed)
		require.Less(t, len(r.ai.Requests()), 300)
		state, err := r.batches.State(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, end.Why, state.Why)

		stopped, completed := 0, 0
		for _, l := range r.output(id) {
			switch {
			case l.Status == "completed":
				completed++
			case l.Error.Code == batch.CodeStopped:
				stopped++
				require.Contains(t, l.Error.Message, end.Why)
			default:
				require.Equal(t, tasks.CodeRequestRefused, l.Error.Code)
			}
		}
		require.Positive(t, completed)
		require.Greater(t, stopped, lines/2)

		r.ai.Heal()
		_, err = r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.NoError(t, err)
		end = r.drive(id)
		require.Equal(t, []any{batch.Completed, lines, 0, ""}, []any{end.Status, end.Completed, end.Failed, end.Why})
	})
}

func TestALimitOfFailuresIsRead(t *testing.T) {
	for text, percent := range map[string]float64{"failed>5%": 5, "failed > 0.5 %": .5, "": 0} {
		var a batch.AutoStop
		require.NoError(t, a.UnmarshalText([]byte(text)))
		require.InDelta(t, percent, a.Percent, 1e-9)
		written, err := a.MarshalText()
		require.NoError(t, err)
		var again batch.AutoStop
		require.NoError(t, again.UnmarshalText(written))
		require.Equal(t, a, again)
	}
	for _, text := range []string{"5%", "failed>5", "failed>0%", "failed>100%", "failed<5%", strings.Repeat("9", 99)} {
		require.Error(t, new(batch.AutoStop).UnmarshalText([]byte(text)), text)
	}
}
