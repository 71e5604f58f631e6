package budget_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/stretchr/testify/require"
)

var (
	account = budget.Cap{Scope: budget.Account, Neurons: 100, Over: budget.Wait}
	acme    = budget.Cap{Scope: budget.Tenant, Name: "acme", Neurons: 30, Over: budget.Fail}
	bulk    = budget.Cap{Scope: budget.Bulk, Neurons: 50, Over: budget.Wait}
)

// The rest of a cap is what no call has spent or reserved. A repeated command changes nothing.
func TestACallReservesAndSettlesOnce(t *testing.T) {
	rdb := redistest.Memory(t)
	plan := budget.PlanOf([]budget.Cap{account}, budget.Payer{Tenant: "acme"})
	of := func(spent, reserved float64) {
		t.Helper()
		s, r, err := budget.Spent(t.Context(), rdb, []budget.Cap{account}, time.Now())
		require.NoError(t, err)
		require.Equal(t, []float64{spent, reserved}, []float64{s[0], r[0]})
	}
	first, err := budget.Reserve(t.Context(), rdb, plan, "1", 60)
	require.NoError(t, err)
	_, err = budget.Reserve(t.Context(), rdb, plan, "1", 60)
	require.NoError(t, err, "its reply was lost")
	of(0, 60)

	var over *budget.ExceededError
	_, err = budget.Reserve(t.Context(), rdb, plan, "2", 60)
	require.ErrorAs(t, err, &over)
	require.False(t, over.Final(), "the first may cost less")
	require.True(t, over.Fits(40))
	for range 2 {
		require.NoError(t, first.Settle(t.Context(), 10))
		of(10, 0)
	}

	second, err := budget.Reserve(t.Context(), rdb, plan, "2", 90)
	require.NoError(t, err)
	require.NoError(t, second.Settle(t.Context(), -1), "its price is not known")
	of(100, 0)
	_, err = budget.Reserve(t.Context(), rdb, plan, "3", 0.000001)
	require.ErrorAs(t, err, &over)
	require.True(t, over.Final())
	require.False(t, over.Never())
	require.Equal(t, budget.NextDay(time.Now()), over.Until)
	require.True(t, budget.IsReason(over.Error()))
	require.True(t, over.For(101, time.Now()).Never())

	unsent, err := budget.Reserve(t.Context(), rdb, budget.PlanOf([]budget.Cap{{Scope: budget.Key, Name: "k", Neurons: 1}}, budget.Payer{Key: "k"}), "4", 1)
	require.NoError(t, err)
	require.NoError(t, unsent.Settle(t.Context(), 0))
}

// A cap of bulk counts the calls of all and holds those of bulk.
func TestEachCapHoldsTheCallsOfItsScope(t *testing.T) {
	rdb := redistest.Memory(t)
	caps := []budget.Cap{account, bulk, acme}
	send := func(p budget.Payer, id string, price float64) error {
		held, err := budget.Reserve(t.Context(), rdb, budget.PlanOf(caps, p), id, price)
		if err == nil {
			err = held.Settle(t.Context(), price)
		}
		return err
	}
	require.NoError(t, send(budget.Payer{Tenant: "shop"}, "1", 45))
	require.ErrorContains(t, send(budget.Payer{Tenant: "shop", Bulk: true}, "2", 6), "budget of bulk: 45 of 50 neurons are spent")
	require.NoError(t, send(budget.Payer{Tenant: "shop", Bulk: true}, "3", 5))
	require.NoError(t, send(budget.Payer{Tenant: "shop"}, "4", 15))
	require.NoError(t, send(budget.Payer{Tenant: "acme"}, "5", 30))
	require.ErrorContains(t, send(budget.Payer{Tenant: "acme"}, "6", 1), "budget of tenant acme: 30 of 30")
	require.ErrorContains(t, send(budget.Payer{Tenant: "shop"}, "7", 6), "budget of account: 95 of 100")
	require.NotEqual(t, budget.PlanOf(caps, budget.Payer{Tenant: "acme"}).String(), budget.PlanOf(caps, budget.Payer{Tenant: "shop"}).String())
	require.True(t, budget.PlanOf(caps[2:], budget.Payer{Tenant: "shop"}).Empty())
}

func TestADayBeginsAnewAtMidnightUTC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.New(t).Client(&redistest.Link{})
		plan := budget.PlanOf([]budget.Cap{account}, budget.Payer{})
		time.Sleep(23*time.Hour + 59*time.Minute)
		late, err := budget.Reserve(t.Context(), rdb, plan, "1", 100)
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		_, err = budget.Reserve(t.Context(), rdb, plan, "2", 100)
		require.NoError(t, err)
		require.NoError(t, late.Settle(t.Context(), 100), "on its own day")
		spent, reserved, err := budget.Spent(t.Context(), rdb, []budget.Cap{account}, time.Now())
		require.NoError(t, err)
		require.Equal(t, []float64{0, 100}, []float64{spent[0], reserved[0]})
	})
}

func TestCapsAreKeptByTheBucketAndReadInOneCommand(t *testing.T) {
	server := redistest.New(t)
	caps := &budget.Caps{Redis: server.Client(&redistest.Link{}), Store: storage.NewMemory()}
	all, err := caps.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	for _, c := range []budget.Cap{acme, account, bulk} {
		require.NoError(t, caps.Set(t.Context(), c))
	}
	for range 2 {
		all, err = caps.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, []budget.Cap{account, bulk, acme}, all)
		require.NoError(t, caps.Redis.FlushAll(t.Context()).Err())
	}
	_, err = caps.List(t.Context())
	require.NoError(t, err)
	before := server.Commands()
	_, err = caps.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, server.Commands()-before)
	require.NoError(t, caps.Remove(t.Context(), budget.Tenant, "acme"))
	require.ErrorIs(t, caps.Remove(t.Context(), budget.Tenant, "acme"), budget.ErrNotFound)
	require.NoError(t, caps.Redis.FlushAll(t.Context()).Err())
	all, err = caps.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []budget.Cap{account, bulk}, all)
	for _, wrong := range []budget.Cap{
		{Scope: "world", Over: budget.Wait}, {Scope: budget.Tenant, Over: budget.Wait}, {Scope: budget.Key, Name: "a/b", Over: budget.Wait},
		{Scope: budget.Account, Name: "x", Over: budget.Wait}, {Scope: budget.Account, Neurons: -1, Over: budget.Wait}, {Scope: budget.Account},
	} {
		require.Error(t, caps.Set(t.Context(), wrong), wrong)
	}
}
