package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// doored is a whole system whose bucket is behind a fault-injecting proxy.
func doored(t *testing.T) (*wire, *realtest.Door) {
	s := newServers(t)
	door := realtest.NewDoor(t, s.bucket)
	s.bucket = door.Addr
	w := s.wire(t, "doored")
	t.Cleanup(w.close)
	w.cfg.Kinds, w.cfg.Concurrency = []tasks.Kind{tasks.KindTranslation, tasks.KindImage}, 4
	return w, door
}

// works runs a worker until stop is called or the test ends.
func (w *wire) works(door *realtest.Door) (stop func() error) {
	w.t.Helper()
	end, err := w.work()
	require.NoError(w.t, err)
	stop = sync.OnceValue(end)
	w.t.Cleanup(func() {
		door.Set(nil) // so that paid answers can be stored before the end
		_ = stop()
	})
	return stop
}

// asked enqueues a task as a careful producer does: it repeats the request with the same
// key until it has a receipt. The producer meets the same bucket faults as the worker.
func (w *wire) asked(p tasks.Payload, key string) (id string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		accepted, err := w.client.Enqueue(w.t.Context(), p, tasks.WithIdempotencyKey(key))
		id = accepted.ID
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	return id
}

// completes waits until a task has completed.
func (w *wire) completes(id string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	result, err := w.client.Wait(ctx, id)
	for err != nil && ctx.Err() == nil { // each Wait has tried four times, with pauses
		result, err = w.client.Wait(ctx, id)
	}
	require.NoError(w.t, err)
	require.Equal(w.t, tasks.Completed, result.Status)
	require.Equal(w.t, []int{1, 0}, []int{result.Usage.Calls, result.Usage.Unsettled})
}

func TestATroubledBucketCostsNoSecondCall(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	for name, rule := range map[string]realtest.Rule{
		"every third request is refused": realtest.Throttle(3),
		"each answer is slow": func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
			time.Sleep(100 * time.Millisecond)
			server.ServeHTTP(w, r)
		},
		"every fifth answer does not come": func(n int, w http.ResponseWriter, r *http.Request, server http.Handler) {
			if n%5 == 0 {
				realtest.Mute(r)
			}
			server.ServeHTTP(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, door := doored(t)
			door.Set(rule)
			var ids []string
			for i := range 3 {
				ids = append(ids, w.asked(hello, fmt.Sprint("translation ", i)), w.asked(tasks.Image{Prompt: "a mill"}, fmt.Sprint("image ", i)))
			}
			stop := w.works(door)
			for _, id := range ids {
				w.completes(id)
			}
			require.NoError(t, w.paid(len(ids)))
			require.NoError(t, stop())
		})
	}
}

func TestABucketThatRefusesAllForAWhileCostsNoSecondCall(t *testing.T) {
	t.Parallel()
	w, door := doored(t)
	w.ai.Fault(workersaitest.Fault{Delay: 500 * time.Millisecond})
	ids := []string{w.asked(hello, "a"), w.asked(hello, "b"), w.asked(tasks.Image{Prompt: "a mill"}, "c")}
	stop := w.works(door)
	require.Eventually(t, func() bool { return len(w.ai.Requests()) == len(ids) }, 30*time.Second, 5*time.Millisecond)
	door.Set(realtest.Throttle(1))

	_, err := w.client.Enqueue(t.Context(), hello, tasks.WithIdempotencyKey("d"))
	require.ErrorIs(t, err, tasks.ErrUnknownOutcome)
	require.ErrorContains(t, err, "SlowDown")
	require.Eventually(t, func() bool { return door.Met() >= 20 }, time.Minute, 50*time.Millisecond, "the SDK gives up after four, the worker does not")

	door.Set(nil)
	for _, id := range append(ids, w.asked(hello, "d")) {
		w.completes(id)
	}
	require.NoError(t, w.paid(4))
	require.NoError(t, stop())
}

func TestABucketWithoutCreateOnlyWritesCostsNoCall(t *testing.T) {
	t.Parallel()
	w, door := doored(t)
	var log lines
	w.cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	door.Set(realtest.Uncreatable)
	_, err := w.client.Enqueue(t.Context(), hello, tasks.WithIdempotencyKey("k"))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.NotErrorIs(t, err, tasks.ErrUnknownOutcome, "it will not run")
	accepted, err := w.client.Enqueue(t.Context(), hello)
	require.NoError(t, err, "its record is no create-only write")

	// The bucket is unreachable when the worker starts, and later fails the preflight.
	door.Set(realtest.Throttle(1))
	stop := w.works(door)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "the bucket does not work") }, time.Minute, 10*time.Millisecond)
	door.Set(realtest.Uncreatable)
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), "If-None-Match") || len(w.ai.Requests()) > 0
	}, time.Minute, 10*time.Millisecond)
	require.Empty(t, w.ai.Requests())
	require.NoError(t, stop())
	require.Equal(t, 1, strings.Count(log.String(), "the bucket cannot hold results"), log.String())

	// The bucket is reachable when the worker starts.
	worker, err := engine.NewWorker(w.cfg)
	require.NoError(t, err)
	brief, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.ErrorIs(t, worker.Run(brief), errors.ErrUnsupported, "it does not wait for a bucket that can never work")
	require.Empty(t, w.ai.Requests())

	door.Set(nil)
	w.works(door)
	w.completes(accepted.ID)
	require.NoError(t, w.paid(1))
	for info, err := range w.cfg.Store.List(t.Context(), "default/doctor/", "") {
		require.NoError(t, err)
		require.Empty(t, info, "what it tried is gone")
	}
}
