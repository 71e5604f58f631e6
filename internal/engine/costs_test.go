package engine

import (
	"errors"
	"testing"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestTheCostOfACallIsCountedOnceWhoeverTellsOfIt(t *testing.T) {
	c := parseCosts("1:12.5 4:3")
	require.InDelta(t, 15.5, c.total(), 1e-9)
	c.found(4, 3) // the bucket has the checkpoint whose price is in the record
	require.InDelta(t, 15.5, c.total(), 1e-9)
	require.Equal(t, "1:12.5", c.record(), "a later run finds it, too")
	c.answered(5, 2)
	require.Equal(t, "1:12.5 5:2", c.record(), "this one is in memory only")
	c.stored(5)
	require.Equal(t, "1:12.5", c.record())
	c.lose(5, 2)
	c.lose(5, 2)
	require.Equal(t, "1:12.5 5:2", c.record())
	require.InDelta(t, 17.5, c.total(), 1e-9)
}

func TestADamagedRecordOfCostsIsReadAsFarAsItCanBe(t *testing.T) {
	c := parseCosts("1:2 x:3 4 5:-1 6:NaN 7:1e300 8:0.5 :9")
	require.Equal(t, map[int]float64{1: 2, 8: 0.5}, c.lost)
}

func TestUnsettledCallsAreThoseWhosePriceIsNotKnown(t *testing.T) {
	j := &job{spec: tasks.Spec{Attempts: 2}, counts: counters{calls: 9, settled: 2, costs: parseCosts("1:2 3:4")}, attempt: attempt{refused: 1}}
	j.counts.costs.answered(9, 1)
	require.Equal(t, 5, j.fruitless(), "those that brought nothing, with and without a price")
	require.Equal(t, 3, j.unsettled())
	require.Nil(t, j.exhausted())
	j.counts.calls++
	require.NotNil(t, j.exhausted(), "three times its attempts")
	j.reasons.answered(errors.New("workers ai 500: internal error"))
	require.Contains(t, j.exhausted().Message, "; the last answer was: workers ai 500: internal error")
}
