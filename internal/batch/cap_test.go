package batch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// TestABatchNeverCostsMoreThanItsCap: over drivers that die, and chunks that are split. It
// stops with the reason; no line is lost, and a retry with a higher cap runs the rest.
func TestABatchNeverCostsMoreThanItsCap(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		const lines = 4_000
		whole := r.drive(r.accept(embeddings(lines), batch.AcceptOptions{})).Neurons
		before := len(r.ai.Requests())
		billed := func() (neurons float64) {
			for _, q := range r.ai.Requests()[before:] {
				neurons += q.Neurons
			}
			return neurons
		}
		r.ai.Fault(workersaitest.Fault{Contains: `"text 7"`, Code: 5006})
		most := whole / 2
		id := r.accept(embeddings(lines), batch.AcceptOptions{MaxNeurons: most})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			_, err := r.batches.Drive(ctx, id, batch.DriveOptions{})
			require.Error(t, err)
			cancel()
		}
		end := r.drive(id)
		require.Equal(t, batch.Stopped, end.Status)
		require.Regexp(t, `^\S+ of its \S+ neurons are spent, and the next call may cost \S+: neuronmill batch retry b_\S+ --failed --max-neurons N runs the rest$`, end.Why)
		require.LessOrEqual(t, billed(), most)
		require.Greater(t, billed(), most/4, "what was reserved and not spent is used")
		require.InDelta(t, billed(), end.Neurons, 0.01)
		require.Equal(t, lines, end.Completed+end.Failed)
		for _, l := range r.output(id) {
			if l.Status == "failed" && l.ID != "row-7" {
				require.Equal(t, batch.CodeStopped, l.Error.Code)
			}
		}
		state, err := r.batches.State(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, end.Why, state.Why)

		r.ai.Heal()
		_, err = r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.NoError(t, err)
		calls := len(r.ai.Requests())
		require.Equal(t, batch.Stopped, r.drive(id).Status, "the cap is for all rounds")
		require.LessOrEqual(t, billed(), most)
		require.LessOrEqual(t, len(r.ai.Requests()), calls+10)
		_, err = r.batches.Retry(t.Context(), id, batch.RetryOptions{MaxNeurons: 10 * whole})
		require.NoError(t, err)
		end = r.drive(id)
		require.Equal(t, []any{batch.Completed, lines}, []any{end.Status, end.Completed})
		require.InDelta(t, whole, billed(), whole/10, "no line was paid for twice")
	})
}

// TestCallsOfUnknownPriceCountAgainstTheCapOfABatch: also for a driver that takes over, and in
// a retry.
func TestCallsOfUnknownPriceCountAgainstTheCapOfABatch(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		r.ai.Fault(workersaitest.Fault{DropAnswer: true})
		const most = 100.0
		id := r.accept(embeddings(4_000), batch.AcceptOptions{MaxNeurons: most})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := r.batches.Drive(ctx, id, batch.DriveOptions{})
			require.Error(t, err)
			cancel()
		}
		end := r.drive(id)
		require.Equal(t, batch.Stopped, end.Status)
		require.Zero(t, end.Neurons)
		require.Greater(t, end.Lost, most/2)
		require.LessOrEqual(t, end.Lost, most)
		r.ai.Heal()
		_, err := r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.NoError(t, err)
		calls := len(r.ai.Requests())
		require.Equal(t, batch.Stopped, r.drive(id).Status, "the cap is for all rounds")
		require.LessOrEqual(t, len(r.ai.Requests()), calls+10)
		billed := 0.0
		for _, q := range r.ai.Requests() {
			billed += q.Neurons
		}
		require.LessOrEqual(t, billed, most)
	})
}

// TestALineWithoutAHighestPriceIsRefusedUnderACap: before anything is paid.
func TestALineWithoutAHighestPriceIsRefusedUnderACap(t *testing.T) {
	r := newRig(t)
	for line, reason := range map[string]string{
		`{"id":"a","kind":"text","model":"@cf/meta/llama-3.2-1b-instruct","input":{"prompt":"x","max_tokens":9}}`: "",
		`{"id":"a","kind":"transcription","input":{"audio":{"key":"default/in/a.wav"}}}`:                          "", // by its size
		`{"id":"a","kind":"transcription","input":{"audio":{"url":"https://example.com/a.wav"}}}`:                 "max_neurons: a cap of the batch cannot be kept",
	} {
		_, err := r.batches.Accept(t.Context(), batch.NewID(), source(line, batch.Native), batch.AcceptOptions{MaxNeurons: 100})
		if reason == "" {
			require.NoError(t, err)
			continue
		}
		var invalid *batch.InvalidError
		require.ErrorAs(t, err, &invalid)
		require.Contains(t, invalid.Report.Problems[0].Message, reason)
	}
	_, err := r.batches.Accept(t.Context(), batch.NewID(), source(embeddings(1), batch.Native), batch.AcceptOptions{MaxNeurons: -1})
	require.ErrorContains(t, err, "max_neurons")
}
