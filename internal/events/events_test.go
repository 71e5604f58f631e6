package events_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

var quiet = slog.New(slog.DiscardHandler)

// startHub runs a hub until stop or the test's end.
func startHub(t *testing.T, r redis.UniversalClient) *events.Hub {
	h := events.NewHub(r, quiet)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return h
}

func state(e events.Event) events.Snapshot {
	return func(context.Context) (events.Event, error) { return e, nil }
}

var queued = state(events.Event{Type: events.Queued})

// next returns the next events as "TYPE text".
func next(t *testing.T, f *events.Follower, n int) []string {
	t.Helper()
	var got []string
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		e, err := f.Next(ctx)
		cancel()
		if errors.Is(err, io.EOF) {
			return append(got, "end")
		}
		require.NoError(t, err)
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d %s %s%s%s", e.N, e.Type, e.Reason, e.Text, e.Status)))
	}
	return got
}

func follow(t *testing.T, h *events.Hub, after int, s events.Snapshot) *events.Follower {
	t.Helper()
	f, err := h.Follow(t.Context(), "t_a", after, s)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

func happened(of tasks.EventType, change ...func(*tasks.Event)) tasks.Event {
	e := tasks.Event{Type: of, Time: time.Now().UTC(), ID: "t_a", Attempt: 1}
	for _, c := range change {
		c(&e)
	}
	return e
}

func finished() tasks.Event {
	return happened(tasks.EventFinished, func(e *tasks.Event) { e.Outcome = "completed" })
}

func TestAFollowerSeesATaskFromTheQueueToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		h, w := startHub(t, r), events.NewWriter(r, quiet)
		defer w.Close()
		f := follow(t, h, 0, queued)
		require.Equal(t, []string{"1 queued"}, next(t, f, 1))
		w.Observe(happened(tasks.EventWaiting, func(e *tasks.Event) { e.Reason = "pace" }))
		require.Equal(t, []string{"2 waiting pace"}, next(t, f, 1))
		w.Observe(happened(tasks.EventStarted))
		require.Equal(t, []string{"3 running"}, next(t, f, 1))
		w.Text("t_a", "Rhine")
		w.Text("t_a", ", Elbe")
		require.Equal(t, []string{"4 text Rhine, Elbe"}, next(t, f, 1), "parts that come close together are one event")
		w.Text("t_a", ", Oder")
		w.Observe(finished())
		require.Equal(t, []string{"5 text , Oder", "6 done completed", "end"}, next(t, f, 3))
		require.Equal(t, []string{"end"}, next(t, f, 1))
		w.Observe(finished())
		time.Sleep(time.Second)
		require.EqualValues(t, 6, r.XLen(t.Context(), events.StreamKey("t_a")).Val(), "nothing follows the end")
		f.Close()
		time.Sleep(events.KeptFor + time.Minute)
		require.Empty(t, r.Keys(t.Context(), "*").Val())
	})
}

func TestAFollowerWhoComesLateGetsTheTextFromItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		h, w := startHub(t, r), events.NewWriter(r, quiet)
		defer w.Close()
		w.Observe(happened(tasks.EventStarted))
		for i := range 100 {
			w.Text("t_a", fmt.Sprint(i, " "))
			time.Sleep(100 * time.Millisecond)
		}
		require.Zero(t, r.Exists(t.Context(), events.StreamKey("t_a")).Val(), "nobody follows")
		time.Sleep(time.Millisecond) // no flush is due at this instant
		f := follow(t, h, 0, state(events.Event{Type: events.Running}))
		w.Text("t_a", "last")
		got := next(t, f, 3)
		require.Equal(t, []string{"1 running", "2 running"}, got[:2])
		require.True(t, strings.HasPrefix(got[2], "3 text 0 1 2 ") && strings.HasSuffix(got[2], " 98 99 last"), got[2])
	})
}

func TestAnyReplicaContinuesAfterAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		w := events.NewWriter(r, quiet)
		defer w.Close()
		first := follow(t, startHub(t, r), 0, queued)
		w.Observe(happened(tasks.EventStarted))
		require.Equal(t, []string{"1 queued", "2 running"}, next(t, first, 2))
		first.Close()
		w.Text("t_a", "Rhine")
		time.Sleep(time.Second)
		h := startHub(t, r)
		second := follow(t, h, 2, state(events.Event{Type: events.Running}))
		require.Equal(t, []string{"3 text Rhine"}, next(t, second, 1))
		w.Observe(finished())
		require.Equal(t, []string{"4 done completed", "end"}, next(t, second, 2))

		done := state(events.Event{Type: events.Done, Status: tasks.Completed})
		_, err := h.Follow(t.Context(), "t_a", 4, done)
		require.ErrorIs(t, err, events.ErrEnded)
		require.Equal(t, []string{"3 text Rhine", "4 done completed", "end"}, next(t, follow(t, h, 2, done), 3))
		time.Sleep(events.KeptFor + time.Minute)
		_, err = h.Follow(t.Context(), "t_a", 4, done)
		require.ErrorIs(t, err, events.ErrEnded, "also when the stream has expired")
		require.Equal(t, []string{"1 done completed", "end"}, next(t, follow(t, h, 0, done), 2))
		require.Zero(t, r.Exists(t.Context(), events.StreamKey("t_a")).Val(), "an ended task needs no stream")
	})
}

func TestAnEndThatNoWorkerReportedIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		h := startHub(t, r)
		var mu sync.Mutex
		now := events.Event{Type: events.Running}
		f := follow(t, h, 0, func(context.Context) (events.Event, error) {
			mu.Lock()
			defer mu.Unlock()
			return now, nil
		})
		require.Equal(t, []string{"1 running"}, next(t, f, 1))
		mu.Lock()
		now = events.Event{Type: events.Done, Status: tasks.Failed}
		mu.Unlock()
		require.Equal(t, []string{"2 done failed", "end"}, next(t, f, 2))
	})
}

// The mark is set while the task finishes: the worker looks for it after the commit.
func TestATaskThatEndsAtTheMomentItIsFollowedReportsItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		h, w := startHub(t, r), events.NewWriter(r, quiet)
		defer w.Close()
		w.Observe(happened(tasks.EventStarted))
		time.Sleep(time.Second)
		f := follow(t, h, 0, state(events.Event{Type: events.Running}))
		w.Observe(finished())
		require.Equal(t, []string{"1 running", "2 running", "3 done completed", "end"}, next(t, f, 4))
	})
}

func TestEventsPassOverABreakOfRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, toWorker, toHub := redistest.New(t), &redistest.Link{}, &redistest.Link{}
		h, w := startHub(t, server.Client(toHub)), events.NewWriter(server.Client(toWorker), quiet)
		defer w.Close()
		f := follow(t, h, 0, queued)
		w.Observe(happened(tasks.EventStarted))
		w.Text("t_a", "Rhine")
		got := next(t, f, 3)
		toWorker.Cut()
		w.Text("t_a", ", Elbe")
		time.Sleep(3 * time.Second)
		toWorker.Mend()
		w.Text("t_a", ", Oder")
		time.Sleep(3 * time.Second)
		toHub.Cut()
		time.Sleep(3 * time.Second)
		w.Observe(finished())
		time.Sleep(3 * time.Second)
		toHub.Mend()
		time.Sleep(15 * time.Second)
		for got[len(got)-1] != "end" {
			got = append(got, next(t, f, 1)...)
		}
		text := ""
		for _, line := range got {
			if strings.HasSuffix(line, " running") {
				text = "" // a write whose reply was lost is repeated
			}
			if _, part, ok := strings.Cut(line, " text "); ok {
				text += strings.TrimSpace(part)
			}
		}
		require.Equal(t, "Rhine, Elbe, Oder", text, got)
		require.Contains(t, got[len(got)-2], "done completed")
	})
}

func TestATextIsCutAtItsBoundAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		h, w := startHub(t, r), events.NewWriter(r, quiet)
		defer w.Close()
		f := follow(t, h, 0, queued)
		w.Observe(happened(tasks.EventStarted))
		for range 100 {
			w.Text("t_a", "x"+strings.Repeat("ü", 600))
		}
		w.Observe(finished())
		var text strings.Builder
		cut := false
		for {
			e, err := f.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			if e.Type == events.Text {
				require.Equal(t, text.Len(), e.Offset)
				text.WriteString(e.Text)
				cut = cut || e.Cut
			}
		}
		require.True(t, cut)
		require.InDelta(t, events.MaxText, text.Len(), 4)
		require.NotContains(t, text.String(), "\uFFFD")
	})
}

// counter counts the commands of a client.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.add(1); return next(ctx, cmd) }
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.add(len(cmds)); return next(ctx, cmds) }
}

func (c *counter) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
}

func (c *counter) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = 0
	return n
}

func TestTasksThatNobodyFollowsCostAWorkerNextToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := redistest.Memory(t)
		commands := &counter{}
		r.AddHook(commands)
		w := events.NewWriter(r, quiet)
		defer w.Close()
		for i := range 10_000 {
			e := finished()
			e.ID = fmt.Sprint("t_", i)
			w.Observe(e)
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		time.Sleep(time.Second)
		require.Less(t, commands.take(), 60, "for 10,000 tasks in 10 s")
		time.Sleep(time.Hour)
		require.Zero(t, commands.take(), "an idle worker")
		require.Empty(t, r.Keys(t.Context(), "*").Val())
	})
}

func TestFollowersCostRedisNoCommandsEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := redistest.New(t)
		commands := &counter{}
		r := server.Client(nil)
		r.AddHook(commands)
		h, w := startHub(t, r), events.NewWriter(server.Client(nil), quiet)
		defer w.Close()
		cost := func(task string, followers int) int {
			var all []*events.Follower
			for range followers {
				f, err := h.Follow(t.Context(), task, 0, queued)
				require.NoError(t, err)
				all = append(all, f)
				next(t, all[len(all)-1], 1)
			}
			time.Sleep(time.Second)
			commands.take()
			for i := range 240 {
				w.Observe(happened(tasks.EventWaiting, func(e *tasks.Event) { e.ID, e.Reason = task, fmt.Sprint(i) }))
				time.Sleep(500 * time.Millisecond)
			}
			for _, f := range all {
				require.Contains(t, next(t, f, 100)[99], "waiting")
				f.Close()
			}
			return commands.take()
		}
		few := cost("t_few", 1)
		require.Less(t, few, 40, "in two minutes")
		require.InDelta(t, few, cost("t_many", 500), 5)
	})
}
