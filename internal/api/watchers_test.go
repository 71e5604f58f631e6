package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// everyCommand counts the commands of a client, those of pipelines too.
type everyCommand struct{ n atomic.Int64 }

func (c *everyCommand) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *everyCommand) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

func (c *everyCommand) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.n.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}

func TestTwoHundredWatchersCostRedisLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newUnservedBench(t, Config{})
		defer b.stop()
		ctx := t.Context()
		for i := range 5 {
			model := fmt.Sprintf("@cf/x/model-%d", i)
			p, err := b.cfg.Gate.Acquire(ctx, gate.Request{Model: model, Kind: "text", Lane: "bulk"})
			require.NoError(t, err)
			_, err = p.Release(ctx, gate.Passed, 0)
			require.NoError(t, err)
		}
		require.NoError(t, (&history.History{Redis: b.cfg.Redis}).Add(ctx, "default", time.Now(), history.Counts{Completed: 1}))
		accepted, err := b.client("default").Enqueue(ctx, tasks.Text{Prompt: "hi"})
		require.NoError(t, err)
		b.uiEnded("default", tasks.Result{ID: "t_done", Kind: tasks.KindText, Status: tasks.Completed, Model: "m", Output: []byte(`{"text":"x"}`)})

		watching, leave := context.WithCancel(ctx)
		defer leave()
		paths := []string{"/ui/", "/ui/gates", "/ui/workers", "/ui/batches", "/ui/tasks/" + accepted.ID}
		for i := range 200 {
			w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(watching, http.MethodGet, paths[i%len(paths)]+"?live=1", nil)
			r.Host = "127.0.0.1"
			go b.ServeHTTP(w, r)
		}
		time.Sleep(30 * time.Second)
		count := &everyCommand{}
		b.cfg.Redis.AddHook(count)
		time.Sleep(time.Minute)
		t.Logf("%.1f commands a second", float64(count.n.Load())/60)
		require.Less(t, count.n.Load(), int64(20*60))
		require.Greater(t, count.n.Load(), int64(60), "they are shown what happens")
		leave()
		synctest.Wait()
	})
}

func TestGatesShowTheirHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newUnservedBench(t, Config{})
		defer b.stop()
		past := &history.History{Redis: b.cfg.Redis}
		sampler := &history.Sampler{History: past, Gate: b.cfg.Gate}
		sample := func() {
			_, err := sampler.Sample(t.Context())
			require.NoError(t, err)
		}
		sample()
		p, err := b.cfg.Gate.Acquire(t.Context(), gate.Request{Model: "@cf/x/y", Kind: "text"})
		require.NoError(t, err)
		_, err = p.Release(t.Context(), gate.Throttled, 20*time.Second)
		require.NoError(t, err)
		sample()
		time.Sleep(30 * time.Second)
		sample()
		w := httptest.NewRecorder()
		b.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/v1/gates?minutes=2", nil))
		require.Equal(t, http.StatusOK, w.Code, w.Body.String())
		require.Contains(t, w.Body.String(), `"minutes":[{"at":"1999-12-31T23:59:00Z","calls":0,"throttled":0,"per_minute":null},{"at":"2000-01-01T00:00:00Z","calls":1,"throttled":1,"per_minute":`)
		require.Contains(t, w.Body.String(), `"closures":[{"from":"2000-01-01T00:00:00Z","until":"2000-01-01T00:00:30Z","reason":"`)
	})
}
