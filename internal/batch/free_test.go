package batch_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// pictures returns lines of pictures that cost 75 neurons each.
func pictures(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id": "row-%d", "kind": "image", "model": "@cf/black-forest-labs/flux-2-dev", "input": {"prompt": "mill %d", "width": 256, "height": 256, "steps": 8}}`+"\n", i, i)
	}
	return b.String()
}

// TestAFreeBatchSpendsTheFreeAllocationOfEachDayOnly: three days cost nothing and use at least
// 99 % of each allocation, also where others use a part of it. No call is sent while it is
// spent. Each day has a driver and a worker of its own.
func TestAFreeBatchSpendsTheFreeAllocationOfEachDayOnly(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const lines = 405
		steps := 8
		id := r.accept(pictures(lines), batch.AcceptOptions{Spend: tasks.SpendFree})
		for day := range 3 {
			before := len(r.ai.Requests())
			stop := r.work()
			ctx, die := context.WithCancel(t.Context())
			driven := make(chan error, 1)
			go func() {
				_, err := r.batches.Drive(ctx, id, batch.DriveOptions{})
				driven <- err
			}()
			if day > 0 {
				time.Sleep(time.Until(budget.NextDay(time.Now())))
				require.Len(t, r.ai.Requests(), before, "no call while the allocation is spent")
				_, err := r.batches.Client.Enqueue(t.Context(), tasks.Image{Prompt: "a mill for a person", Width: 256, Height: 256, Steps: &steps}, tasks.WithModel("@cf/black-forest-labs/flux-2-dev"))
				require.NoError(t, err)
			}
			time.Sleep(3 * time.Minute)
			spent := len(r.ai.Requests())
			time.Sleep(time.Minute)
			require.Len(t, r.ai.Requests(), spent, "no call while the allocation is spent")
			state, err := r.batches.State(t.Context(), id)
			require.NoError(t, err)
			waiting, err := r.batches.Client.Get(t.Context(), state.Task)
			require.NoError(t, err)
			require.Contains(t, waiting.LastError, "budget of free: ")
			require.WithinRange(t, waiting.NextRun, budget.NextDay(time.Now()), budget.NextDay(time.Now()).Add(10*time.Second))
			die()
			require.Error(t, <-driven)
			stop()
			time.Sleep(time.Until(budget.NextDay(time.Now()).Add(-20 * time.Second)))
		}
		time.Sleep(time.Minute)
		defer r.work()()
		require.Equal(t, lines, r.drive(id).Completed)
		billed := map[string]float64{}
		for _, q := range r.ai.Requests() {
			require.True(t, q.Billed)
			billed[q.At.UTC().Format(time.DateOnly)] += q.Neurons
		}
		require.Len(t, billed, 4)
		for date, neurons := range billed {
			require.LessOrEqual(t, neurons, 10_000.0, date)
			if date != "2000-01-04" {
				require.GreaterOrEqual(t, neurons, 9_900.0, date)
			}
		}
		for i, l := range r.output(id) {
			require.Equal(t, []string{fmt.Sprintf("row-%d", i), "completed"}, []string{l.ID, l.Status})
		}
	})
}

func TestAFreeBatchRefusesModelsWithoutAPrice(t *testing.T) {
	r := newRig(t)
	b := r.batches.Config
	b.Client = tasks.NewClient(tasks.Config{Redis: r.redis, Store: r.store, AllowUnknownModel: true})
	line := `{"id":"a","kind":"text","model":"@cf/some/new-model","input":{"prompt":"x","max_tokens":9}}`
	_, err := batch.New(b).Accept(t.Context(), batch.NewID(), source(line, batch.Native), batch.AcceptOptions{Spend: tasks.SpendFree})
	var invalid *batch.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Contains(t, invalid.Report.Problems[0].Message, "the price of @cf/some/new-model is not known")
	_, err = batch.New(b).Accept(t.Context(), batch.NewID(), source(line, batch.Native), batch.AcceptOptions{Spend: "gold"})
	require.ErrorContains(t, err, "spend")
}

func TestAnOutlookSaysWhenABatchIsDoneForNothingAndWhenAtItsPrice(t *testing.T) {
	now := time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC) // a Friday
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 11, day, hour, minute, 0, 0, time.UTC) }
	for name, c := range map[string]struct {
		neurons, left float64
		took          time.Duration
		paid          batch.Outlook
		free          time.Time
	}{
		"within what is left":       {6_000, 8_000, time.Hour, batch.Outlook{At: at(27, 7, 0)}, at(27, 7, 0)},
		"two more days":             {24_000, 4_000, 2 * time.Hour, batch.Outlook{At: at(27, 8, 0), Dollars: 0.22}, at(29, 0, 50)},
		"nothing is left":           {12_000, 0, time.Hour, batch.Outlook{At: at(27, 7, 0), Dollars: 0.132}, at(29, 0, 10)},
		"over midnight for a price": {40_000, 10_000, 20 * time.Hour, batch.Outlook{At: at(28, 2, 0), Dollars: 26_000 * batch.DollarsPerNeuron}, at(30, 5, 0)},
		"no cost":                   {0, 0, time.Minute, batch.Outlook{At: at(27, 6, 1)}, at(27, 6, 1)},
	} {
		paid, free := batch.OutlookOf(now, c.neurons, c.took, c.left)
		require.Equal(t, c.paid.At, paid.At, name)
		require.InDelta(t, c.paid.Dollars, paid.Dollars, 1e-9, name)
		require.Equal(t, c.free, free.At, name)
		require.Zero(t, free.Dollars, name)
	}
	_, never := batch.OutlookOf(now, 1e9, time.Hour, 0)
	require.True(t, never.At.IsZero())
}
