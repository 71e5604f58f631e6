package batch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/stretchr/testify/require"
)

// brokenAfter is a bucket that fails after some writes of segments.
type brokenAfter struct {
	storage.Store
	left atomic.Int32
}

func (s *brokenAfter) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if strings.Contains(key, "/segments/") && s.left.Add(-1) < 0 {
		return errors.New("the bucket failed")
	}
	return s.Store.Put(ctx, key, body, contentType)
}

// TestAFailedAttemptLeavesTheBatchOfAnotherAlone: many processes accept the same batch at
// once, with an idempotency key or from a schedule. Some fail half way, or are refused.
func TestAFailedAttemptLeavesTheBatchOfAnotherAlone(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const lines = 3000
		text := ""
		for i := range lines {
			text += fmt.Sprintf(`{"id":"row-%d","kind":"text","input":{"prompt":"%d"}}`+"\n", i, i)
		}
		id := batch.NewID()
		var accepting sync.WaitGroup
		var accepted atomic.Int32
		for i := range 20 {
			config := r.batches.Config
			store := &brokenAfter{Store: r.store}
			store.left.Store(int32(i % 5))
			config.Store = store
			rows := text
			if i%4 == 3 {
				rows += "{\"id\": 1}\n" // the last line is not valid
			}
			accepting.Go(func() {
				if d, err := batch.New(config).Accept(t.Context(), id, source(rows, batch.Native), batch.AcceptOptions{}); err == nil {
					accepted.Add(1)
					require.Equal(t, lines, d.Lines)
				}
			})
		}
		accepting.Wait()
		require.Positive(t, accepted.Load())
		segments, kept := 0, 0
		for info, err := range r.store.List(t.Context(), "default/batches/"+id+"/segments/", "") {
			require.NoError(t, err, info.Key)
			segments++
			body, err := r.store.Get(t.Context(), info.Key)
			require.NoError(t, err)
			document, err := io.ReadAll(body)
			require.NoError(t, err)
			kept += strings.Count(string(document), "\n")
		}
		d, err := r.batches.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, d.Segments, segments, "those of the other attempts are gone")
		require.Greater(t, segments, 2)
		require.Equal(t, lines, kept)
	})
}
