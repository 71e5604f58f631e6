package batch_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// TestTheRunAfterASampleDoesNotPayForItsLinesAgain: nor does a second sample of the file. A
// week later it does.
func TestTheRunAfterASampleDoesNotPayForItsLinesAgain(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.work()
		const lines = 2_000
		src := source(embeddings(lines), batch.Native)
		run := func() *batch.Projection {
			t.Helper()
			s, err := r.batches.Sample(t.Context(), src, 0, 20)
			require.NoError(t, err)
			_, err = r.batches.Accept(t.Context(), s.ID, s.Source, batch.AcceptOptions{Sample: true})
			require.NoError(t, err)
			r.drive(s.ID)
			p, err := r.batches.Project(t.Context(), s)
			require.NoError(t, err)
			return p
		}
		p := run()
		require.Equal(t, []int{20, 0}, []int{p.Lines, p.Failed})
		require.Len(t, r.paid(), 20)
		require.Len(t, p.Outputs, 20)
		for i, o := range p.Outputs {
			n, err := strconv.Atoi(strings.TrimPrefix(o.ID, "row-"))
			require.NoError(t, err)
			require.Equal(t, i, n/100, "one of each twentieth of the file")
		}
		require.Equal(t, p, run(), "the same lines, at no cost")
		require.Len(t, r.paid(), 20)
		require.Contains(t, string(p.Outputs[0].Output), `"vectors"`)
		require.Zero(t, p.FailedFrom)
		require.InDelta(t, 0.16, p.FailedTo, 0.01)

		id := batch.NewID()
		_, err := r.batches.Accept(t.Context(), id, src, batch.AcceptOptions{})
		require.NoError(t, err)
		end := r.drive(id)
		require.Equal(t, []int{lines, 20}, []int{end.Completed, end.Cached})
		r.eachOnce(id, lines)
		require.InDelta(t, p.Neurons, p.Paid+end.Neurons, p.Neurons/5)

		stop()
		time.Sleep(8 * 24 * time.Hour)
		defer r.work()()
		id = r.accept(embeddings(lines), batch.AcceptOptions{})
		require.Zero(t, r.drive(id).Cached)
	})
}

// TestASampleEstimatesCostAndFailures: the true price is within the stated error.
func TestASampleEstimatesCostAndFailures(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		var text strings.Builder
		for i := range 400 {
			quality := "good"
			if i%5 == 0 {
				quality = "bad"
			}
			fmt.Fprintf(&text, `{"id":"%d","kind":"translation","input":{"text":"%s %d %s","target_lang":"es"}}`+"\n", i, quality, i, strings.Repeat("word ", i%37))
		}
		r.ai.Fault(workersaitest.Fault{Contains: "bad", Code: 5006})
		src := source(text.String(), batch.Native)
		s, err := r.batches.Sample(t.Context(), src, 0, 60)
		require.NoError(t, err)
		require.Equal(t, 60, s.Lines())
		_, err = r.batches.Accept(t.Context(), s.ID, s.Source, batch.AcceptOptions{Sample: true})
		require.NoError(t, err)
		r.drive(s.ID)
		p, err := r.batches.Project(t.Context(), s)
		require.NoError(t, err)
		require.Less(t, p.FailedFrom, 0.2)
		require.Greater(t, p.FailedTo, 0.2)
		id := r.accept(text.String(), batch.AcceptOptions{})
		end := r.drive(id)
		require.InDelta(t, p.Paid+end.Neurons, p.Neurons, 1.5*p.NeuronsError)
		require.Less(t, p.NeuronsError, p.Neurons/3)
		require.Equal(t, 60-p.Failed, end.Cached, "failed lines are tried again")

		small, err := r.batches.Sample(t.Context(), source(embeddings(3), batch.Native), 0, 20)
		require.NoError(t, err)
		require.Equal(t, 3, small.Lines())
	})
}
