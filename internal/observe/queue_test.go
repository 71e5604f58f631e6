package observe_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/observe"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

var quiet = slog.New(slog.DiscardHandler)

func TestAQueueDeliversEverythingInOrderBeforeItCloses(t *testing.T) {
	var got []int
	q := observe.NewQueue("test", 2000, quiet, func(_ context.Context, some []int) {
		require.LessOrEqual(t, len(some), 256)
		got = append(got, some...)
	})
	for i := range 1000 {
		require.True(t, q.Add(i))
	}
	q.Close(time.Minute)
	require.Len(t, got, 1000)
	for i, n := range got {
		require.Equal(t, i, n)
	}
	require.False(t, q.Add(1), "a closed queue takes nothing")
}

func TestASlowReceiverLosesEventsAndDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := observe.NewQueue("test", 10, quiet, func(ctx context.Context, _ []int) { <-ctx.Done() })
		begun := time.Now()
		for i := range 1000 {
			q.Add(i)
		}
		require.Zero(t, time.Since(begun))
		require.GreaterOrEqual(t, q.Dropped(), 1000-10-256)
		q.Close(5 * time.Second)
		require.Equal(t, 5*time.Second, time.Since(begun))
	})
}

func TestAnObserverThatPanicsMissesNothingElse(t *testing.T) {
	var seen []string
	o, stop := observe.Async(func(e tasks.Event) {
		seen = append(seen, e.ID)
		if e.ID == "a" {
			panic("out of range")
		}
	}, quiet)
	for _, id := range []string{"a", "b"} {
		o.Observe(tasks.Event{ID: id})
	}
	stop()
	require.Equal(t, []string{"a", "b"}, seen)
}

func TestObserversAreCombinedWithoutThoseThatAreNil(t *testing.T) {
	require.Nil(t, tasks.Observers(nil, nil))
	tasks.Observers(nil).Observe(tasks.Event{}) // does nothing
	var seen []string
	note := func(name string) tasks.Observer { return func(tasks.Event) { seen = append(seen, name) } }
	all := tasks.Observers(note("a"), nil, func(tasks.Event) { panic("b") }, note("c"))
	all.Observe(tasks.Event{})
	require.Equal(t, []string{"a", "c"}, seen)
}
