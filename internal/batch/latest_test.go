package batch_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/stretchr/testify/require"
)

func TestTheLatestBatchesAreFoundAmongManyOlderOnes(t *testing.T) {
	store := storage.NewMemory()
	put := func(id string) string {
		require.NoError(t, store.Put(t.Context(), "default/batches/"+id+"/batch.json", strings.NewReader("{}"), ""))
		return id
	}
	timed := func(ago time.Duration, n int) string {
		return put(fmt.Sprintf("b_%012x7%019x", time.Now().Add(-ago).UnixMilli(), n))
	}
	for i := range 700 {
		timed(30*24*time.Hour, i)
	}
	var recent []string
	for i := range 60 {
		recent = append(recent, timed(time.Duration(i)*time.Minute, i))
	}
	derived := put("b_ffff" + strings.Repeat("0", 28))
	all := batch.New(batch.Config{Store: store, Tenant: "default"})
	ids, more, err := all.Latest(t.Context(), 50, 500)
	require.NoError(t, err)
	require.True(t, more)
	require.Less(t, len(ids), 100)
	require.Subset(t, ids, append(recent, derived))
	require.True(t, slices.IsSorted(ids))

	few := batch.New(batch.Config{Store: storage.NewMemory(), Tenant: "default"})
	ids, more, err = few.Latest(t.Context(), 50, 500)
	require.NoError(t, err)
	require.False(t, more)
	require.Empty(t, ids)
}
