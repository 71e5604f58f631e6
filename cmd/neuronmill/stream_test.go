package main

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestTextIsPrintedWhileTheModelWritesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb, log := redistest.Memory(t), slog.New(slog.DiscardHandler)
		worker := events.NewWriter(rdb, log)
		defer worker.Close()
		var stdout, stderr safeBuffer
		begun := 0
		s := newStreamer(&globals{ctx: t.Context(), stdout: &stdout, stderr: &stderr, log: log}, rdb, func() { begun++ })
		defer s.stop()
		finish := s.follow("t_a", func(context.Context) (events.Event, error) {
			return events.Event{Type: events.Running}, nil
		})
		time.Sleep(time.Second)
		started := func(attempt int) {
			worker.Observe(tasks.Event{Type: tasks.EventStarted, Time: time.Now(), ID: "t_a", Attempt: attempt})
		}
		started(1)
		worker.Text("t_a", "Rhone")
		time.Sleep(time.Second)
		require.Equal(t, "Rhone", stdout.String(), "it is printed before the task has ended")
		started(2)
		worker.Text("t_a", "Rhine")
		worker.Text("t_a", ", Elbe")
		time.Sleep(time.Second)
		require.Equal(t, "Rhone\nRhine, Elbe", stdout.String())
		require.Contains(t, stderr.String(), "begins anew")
		written := finish()
		require.Equal(t, "Rhine, Elbe", written, "of the last attempt")
		require.Equal(t, ", Oder", unwritten("Rhine, Elbe, Oder", written))
		require.Equal(t, "\nanother", unwritten("another", written))
		require.Positive(t, begun)
	})
}
