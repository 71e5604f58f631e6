package batch_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/stretchr/testify/require"
)

// wished is a format whose lines are native ones, or "no" for a line that fails alone.
func wished(l *batch.Line, text []byte) {
	if string(text) == "no" {
		l.ID, l.Problem = "refused", &batch.Problem{Line: l.Number, ID: "refused", Code: "refused", Message: "no", Alone: true}
		l.Extra = batch.RawJSON(`"refused"`)
		return
	}
	var n struct {
		ID    string         `json:"id"`
		Input jsontext.Value `json:"input"`
	}
	if json.Unmarshal(text, &n) == nil {
		l.ID, l.Kind, l.Input, l.Extra = n.ID, "embedding", n.Input, batch.RawJSON(`"`+n.ID+`"`)
	}
}

func TestABatchIsPreparedByItsDriverAndItsEndIsReportedUntilThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		prepared, reported := 0, 0
		service := &batch.Service{
			Redis: r.redis, Store: r.store, Log: slog.New(slog.DiscardHandler),
			Prepare: func(ctx context.Context, b *batch.Batches, id string) (*batch.Batch, error) {
				prepared++
				return b.Accept(ctx, id, source(embeddings(1_500)+"no\n", batch.PerLine(wished)), batch.AcceptOptions{ByWorkers: true, NoOutput: true})
			},
			Ended: func(_ context.Context, _ *batch.Batches, d *batch.Batch, e *batch.End) error {
				if reported++; reported == 1 {
					return errors.New("not now")
				}
				require.Equal(t, 1_501, d.Lines)
				require.Equal(t, 1, e.Failed)
				return nil
			},
		}
		defer r.start(service.Run)()
		id := batch.NewID()
		require.NoError(t, r.batches.Hand(t.Context(), id))
		require.Equal(t, 1_500, r.ended(id).Completed)
		time.Sleep(time.Minute)
		require.Equal(t, 1, prepared)
		require.Equal(t, 2, reported)
		require.Empty(t, r.keys("default/batches/pending/"))
		require.NotContains(t, r.keys("default/batches/"+id), r.batches.OutputKey(id))
		n := 0
		_, err := r.batches.Answers(t.Context(), id, func(a *batch.Answered) error {
			n++
			require.Equal(t, n, a.Number)
			require.JSONEq(t, `"`+a.ID+`"`, string(a.Extra))
			require.Contains(t, string(a.Output), `"id":"`+a.ID+`"`)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 1_501, n)
	})
}

func TestABatchThatIsRefusedIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var tries atomic.Int64
		service := &batch.Service{
			Redis: r.redis, Store: r.store, Log: slog.New(slog.DiscardHandler),
			Prepare: func(context.Context, *batch.Batches, string) (*batch.Batch, error) {
				tries.Add(1)
				return nil, batch.ErrRefused
			},
		}
		require.NoError(t, r.batches.Hand(t.Context(), batch.NewID()))
		defer r.start(service.Run)()
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, tries.Load())
		require.Empty(t, r.keys("default/"))
	})
}
