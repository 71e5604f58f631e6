package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/storage/fsstore"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// request is one with a body of so many bytes; -1 means an unknown length.
func request(ctx context.Context, bytes int64) *http.Request {
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/tasks", strings.NewReader("x"))
	req.ContentLength = bytes
	return req
}

func TestBodiesWaitForMemoryInTurnAndNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(100 * leastBody * parsingFactor)
		ctx, releaseLarge, problem := m.reserve(request(t.Context(), 90*leastBody), 100*leastBody)
		require.Nil(t, problem)
		_, release, problem := m.reserve(request(t.Context(), 1), 100*leastBody)
		require.Nil(t, problem, "small bodies fit beside it")
		release()
		_, _, problem = m.reserve(request(t.Context(), -1), 20*leastBody)
		require.NotNil(t, problem)
		require.Equal(t, codeBusy, problem.Code, "a body of unknown length counts for the most of its route")
		require.Equal(t, "1", problem.GetHeaders().Get("Retry-After"))

		parsed(ctx) // it waits for its task now, with a quarter of its memory
		_, release, problem = m.reserve(request(t.Context(), -1), 20*leastBody)
		require.Nil(t, problem)
		release()
		releaseLarge()
		releaseLarge() // once more does no harm
		_, release, problem = m.reserve(request(t.Context(), 1<<40), 1<<40)
		require.Nil(t, problem, "a body that would need more than there is gets all of it")
		ended := make(chan *Problem, 1)
		go func() {
			_, next, problem := m.reserve(request(t.Context(), 1), leastBody)
			if problem == nil {
				next()
			}
			ended <- problem
		}()
		synctest.Wait()
		require.Empty(t, ended)
		release()
		require.Nil(t, <-ended)
		require.True(t, m.free.TryAcquire(m.total), "all of it is free again")
	})
}

// TestAThousandLargeBodiesAtOnceStayWithinTheirMemory sends 8 MiB in each of a thousand
// requests at once. Each is answered or refused with Retry-After.
func TestAThousandLargeBodiesAtOnceStayWithinTheirMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the bodies take ten times as long under the race detector")
	}
	bucket, err := fsstore.Open(t.TempDir())
	require.NoError(t, err)
	b := newBenchWith(t, Config{Store: bucket})
	b.memory.patience /= 10
	size := int64(mostMany - 100)
	large := attack{body: filled(size, `{"tasks":[{"kind":"embedding","input":{"texts":["`, strings.Repeat("many words ", 1000), `"]}}]}`), announced: 0}
	var mu sync.Mutex
	statuses := map[int]int{}
	risen := rise(func() {
		var all errgroup.Group
		for i := range 1000 {
			path := []string{"/v1/tasks:batch", "/v1/plan", "/v1/embeddings"}[i%3]
			all.Go(func() error {
				res := b.attack(t, target{method: http.MethodPost, path: path}, large)
				mu.Lock()
				defer mu.Unlock()
				statuses[res.StatusCode]++
				if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "" {
					return fmt.Errorf("%s: 503 without Retry-After", path)
				}
				return nil
			})
		}
		require.NoError(t, all.Wait())
	})
	t.Logf("the heap rose by at most %d MB; %v", risen>>20, statuses)
	require.Less(t, risen, uint64(2*bodyMemory), "garbage included")
	require.True(t, b.memory.free.TryAcquire(b.memory.total), "all of it is free again")
}
