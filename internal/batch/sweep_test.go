package batch_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// aroundNow runs the service for some minutes: a day of it takes long to simulate.
func (r *rig) aroundNow() {
	s := &batch.Service{Redis: r.redis, Store: r.store, Log: r.batches.Log}
	stop := r.start(s.Run)
	time.Sleep(5 * time.Minute)
	stop()
}

// of returns the keys of a batch.
func (r *rig) of(id string) (keys []string) {
	for _, key := range r.keys("default/") {
		if strings.Contains(key, id) {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestABatchIsKeptAsLongAsItSays: the time counts from the end of its last round. Others stay,
// and so do the results that they have reused.
func TestABatchIsKeptAsLongAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.work()
		r.ai.Fault(workersaitest.Fault{Contains: `"text 7"`, Code: 5006})
		short := r.accept(embeddings(300), batch.AcceptOptions{Keep: batch.MaxAge(48 * time.Hour)})
		require.Equal(t, 1, r.drive(short).Failed)
		reusing := r.accept(embeddings(300), batch.AcceptOptions{Reuse: aMonth})
		require.Equal(t, 299, r.drive(reusing).Cached)
		long := r.accept(embeddings(200), batch.AcceptOptions{})
		r.drive(long)
		r.ai.Heal()
		stop()
		others := len(r.of(reusing)) + len(r.of(long))

		time.Sleep(40 * time.Hour)
		r.aroundNow()
		_, err := r.batches.Retry(t.Context(), short, batch.RetryOptions{})
		require.NoError(t, err)
		stop = r.work()
		require.Equal(t, 300, r.drive(short).Completed)
		stop()
		time.Sleep(40 * time.Hour)
		r.aroundNow()
		require.Len(t, r.output(short), 300, "it ended again")
		time.Sleep(10 * time.Hour)
		r.aroundNow()
		require.Empty(t, r.of(short))
		require.Equal(t, others, len(r.of(reusing))+len(r.of(long)))
		_, err = r.batches.State(t.Context(), short)
		require.ErrorIs(t, err, batch.ErrNotFound)
		require.Len(t, r.output(reusing), 300)
	})
}

// TestIndexesThatNoBatchReadsAreSwept: those of old samples, and the oldest of too many.
func TestIndexesThatNoBatchReadsAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		put := func(folder string, n int) {
			key := fmt.Sprintf("default/batches/%s/2000-01-01/b_%08d/0/000000", folder, n)
			require.NoError(t, r.store.Put(t.Context(), key, strings.NewReader("x"), ""))
		}
		const most = 10_000
		for n := range most + 20 {
			put("index", n)
		}
		put("samples", 1)
		r.aroundNow()
		kept := r.keys("default/batches/index/")
		require.Len(t, kept, most)
		require.Equal(t, "default/batches/index/2000-01-01/b_00000020/0/000000", kept[0])
		require.Len(t, r.keys("default/batches/samples/"), 1)
		time.Sleep(9 * 24 * time.Hour)
		put("samples", 2)
		r.aroundNow()
		require.Equal(t, []string{"default/batches/samples/2000-01-01/b_00000002/0/000000"}, r.keys("default/batches/samples/"))
	})
}
