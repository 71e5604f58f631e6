package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// someFleet has a gate that is closed, one that has learned, and two workers.
func someFleet() monitor.Fleet {
	slots := func(kinds ...tasks.Kind) (list []monitor.WorkerQueue) {
		for _, k := range kinds {
			for _, l := range []tasks.Lane{tasks.Interactive, tasks.Bulk} {
				list = append(list, monitor.WorkerQueue{Kind: k, Lane: l, Slots: 16})
			}
		}
		return list
	}
	return monitor.Fleet{
		At: noon,
		Queues: []monitor.Queue{
			{Kind: tasks.KindText, Lane: tasks.Interactive, Pending: 3, Active: 16, Oldest: noon.Add(-12 * time.Second)},
			{Kind: tasks.KindText, Lane: tasks.Bulk},
			{Kind: tasks.KindEmbedding, Lane: tasks.Bulk, Pending: 1000, Active: 16, Retry: 2, Deferred: map[string]int{"@cf/baai/bge-m3": 123456}, Oldest: noon.Add(-3 * time.Hour)},
		},
		Gates: []gate.State{
			{Name: "@cf/baai/bge-m3", Pace: gate.Pace{PerMinute: 3000, Source: "catalogue"}, RateFactor: 0.5, Closed: 42 * time.Second, Why: "the API said too many requests", Calls: 1234567, Throttled: 89},
			{Name: "@cf/zai-org/glm-4.7-flash", Pace: gate.Pace{PerMinute: 300, Source: "catalogue"}, RateFactor: 1, InFlight: 12, Interactive: 4, Calls: 4321},
		},
		Workers: []monitor.Worker{
			{Host: "mill-1", PID: 4711, Status: "running", Started: noon.Add(-50 * time.Hour), Queues: slots(tasks.KindTranscription, tasks.KindImage, tasks.KindTranslation, tasks.KindEmbedding, tasks.KindText)},
			{Host: "mill-2", PID: 4712, Status: "stopping", Started: noon.Add(-5 * time.Minute), Queues: slots(tasks.KindText)},
		},
	}
}

func TestTopIsOnePageOf80Columns(t *testing.T) {
	f := someFleet()
	p := pageOf(f, monitor.Scaling{Workers: 3, Running: 2, Reason: "1000 tasks wait"}, 80)
	require.Equal(t, `neuronmill  12:00:00  q ends

@cf/baai/bge-m3: the API said too many requests until 2026-03-01T12:00:42Z; it
goes on by itself.

KIND       LANE         WAITING  OLDEST  PARKED  LATER  RUNNING  SLOTS
text       interactive  3        12s     0       0      16       32
embedding  bulk         124456   3h      123456  2      16       16

GATE           STATE   A MINUTE  NOW  WAIT  PARKED  CALLS    429S  OPENS IN
bge-m3         closed  1500      0    0     123456  1234567  89    42s
glm-4.7-flash  open    300       12   4     0       4321     0     -

WORKERS mill-1:4711 (all, 2d), mill-2:4712 (text, 5m stopping)
WANTED 3, 2 run: 1000 tasks wait
`, p.text(false))
	require.Contains(t, p.text(true), "\x1b[1m@cf/baai/bge-m3")
	require.Equal(t, p.text(false), strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "").Replace(p.text(true)), "colours add nothing else")
}

func TestTopFitsWhateverTheNames(t *testing.T) {
	f := someFleet()
	f.Gates[0].Name, f.Gates[0].Refused = "@cf/"+strings.Repeat("very-long-", 15), true
	f.Gates[0].Why = strings.Repeat("界", 300)
	f.Workers[0].Host = strings.Repeat("h", 200)
	for range 40 {
		f.Workers = append(f.Workers, f.Workers[1])
	}
	for _, width := range []int{80, 60, 132} {
		for line := range strings.SplitSeq(pageOf(f, monitor.Scaling{Reason: strings.Repeat("x", 300)}, width).text(false), "\n") {
			require.LessOrEqual(t, runewidth.StringWidth(line), width, line)
		}
	}
}

func TestAFrameOfTopIsNoHigherThanTheTerminal(t *testing.T) {
	text := frame(strings.Repeat("line\n", 100), 24)
	require.Equal(t, 24, strings.Count(text, "\r\n")+1)
	require.True(t, strings.HasPrefix(text, "\x1b[H"))
	require.NotContains(t, strings.ReplaceAll(text, "\r\n", ""), "\n", "the terminal is raw")
}

func TestTopEndsWithQOrTheProgram(t *testing.T) {
	keys := make(chan byte, 2)
	keys <- 'x'
	keys <- 'q'
	require.True(t, ends(t.Context(), keys, time.Hour))
	keys <- 3
	require.True(t, ends(t.Context(), keys, time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.True(t, ends(ctx, nil, time.Hour))
	closed := make(chan byte)
	close(closed)
	require.False(t, ends(t.Context(), closed, time.Millisecond), "input that ends is no key")
}
