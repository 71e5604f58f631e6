package budget_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/stretchr/testify/require"
)

func TestAPurseIsNeverOverspent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var spent atomic.Int64
		p := budget.NewPurse(100, func() float64 { return float64(spent.Load()) })
		require.NoError(t, p.Reserve(t.Context(), 60))
		second := make(chan error, 1)
		go func() { second <- p.Reserve(t.Context(), 60) }()
		synctest.Wait()
		require.Empty(t, second, "the first may cost less")
		spent.Store(30)
		p.Release(60)
		require.NoError(t, <-second)
		var over *budget.SpentError
		require.ErrorAs(t, p.Reserve(t.Context(), 71), &over, "whatever the second costs")
		require.Equal(t, budget.SpentError{Cap: 100, Spent: 30, Needs: 71}, *over)

		ctx, cancel := context.WithCancel(t.Context())
		go func() { second <- p.Reserve(ctx, 20) }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-second, context.Canceled)
		spent.Store(90)
		p.Release(60)
		require.NoError(t, p.Reserve(t.Context(), 10))
		spent.Store(100)
		p.Release(10)
		require.ErrorContains(t, p.Reserve(t.Context(), 0.001), "100 of its 100 neurons are spent")
	})
}
