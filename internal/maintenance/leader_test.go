package maintenance_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/maintenance"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/stretchr/testify/require"
)

// member is a worker of a fleet that runs only housekeeping.
type member struct {
	link *redistest.Link
	stop func()
}

// join starts a member.
func join(t *testing.T, server *redistest.Server, name string, log *slog.Logger, jobs ...maintenance.Job) *member {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &member{link: &redistest.Link{}}
	s := &maintenance.Service{Redis: server.Client(m.link), Owner: name, Jobs: jobs, Log: log}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return m
}

// counting returns a job that counts its runs.
func counting(every time.Duration, n *atomic.Int64) maintenance.Job {
	return maintenance.Job{Name: "count", Every: every, Run: func(context.Context) (time.Duration, error) {
		n.Add(1)
		return 0, nil
	}}
}

func TestAFleetOfAnySizeRunsAJobAsOftenAsOneWorker(t *testing.T) {
	for _, size := range []int{1, 4, 16} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := redistest.New(t)
				var n atomic.Int64
				for i := range size {
					defer join(t, server, fmt.Sprint(i), nil, counting(10*time.Second, &n)).stop()
				}
				time.Sleep(10*time.Minute - time.Second)
				require.InDelta(t, 60, n.Load(), 1)
			})
		})
	}
}

// The fleet shares the time of the next run, so a change of leader does not start a new
// run.
func TestANewLeaderKeepsTheTimesOfTheLastOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := redistest.New(t)
		var n atomic.Int64
		for i := range 29 {
			m := join(t, server, fmt.Sprint(i), nil, counting(10*time.Minute, &n))
			time.Sleep(61 * time.Second) // never at the moment of a due run
			m.stop()
		}
		require.EqualValues(t, 3, n.Load())
	})
}

func TestAWorkerThatStopsHandsOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := redistest.New(t)
		var first, second atomic.Int64
		a := join(t, server, "a", nil, counting(time.Second, &first))
		time.Sleep(time.Second)
		defer join(t, server, "b", nil, counting(time.Second, &second)).stop()
		time.Sleep(10 * time.Second)
		require.Zero(t, second.Load())
		a.stop()
		time.Sleep(3 * time.Second)
		require.Positive(t, second.Load())
	})
}

// A leader that cannot renew its lock stops before another worker becomes leader.
func TestTwoLeadersNeverRunAJobAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := redistest.New(t)
		var running, both, runs [2]atomic.Int64
		job := func(i int) maintenance.Job {
			return maintenance.Job{Name: "long", Every: time.Second, Run: func(ctx context.Context) (time.Duration, error) {
				runs[i].Add(1)
				running[i].Store(1)
				defer running[i].Store(0)
				for ctx.Err() == nil {
					if running[1-i].Load() == 1 {
						both[i].Add(1)
					}
					select {
					case <-ctx.Done():
					case <-time.After(100 * time.Millisecond):
					}
				}
				return 0, nil
			}}
		}
		a := join(t, server, "a", nil, job(0))
		time.Sleep(time.Second)
		b := join(t, server, "b", nil, job(1))
		for range 5 {
			a.link.Cut()
			time.Sleep(20 * time.Second)
			a.link.Mend()
			time.Sleep(10 * time.Second)
			b.link.Cut()
			time.Sleep(20 * time.Second)
			b.link.Mend()
			time.Sleep(10 * time.Second)
		}
		a.stop()
		b.stop()
		require.Greater(t, runs[0].Load(), int64(3), "the lock has changed hands")
		require.Greater(t, runs[1].Load(), int64(3), "the lock has changed hands")
		require.Zero(t, both[0].Load()+both[1].Load())
	})
}

// A job that requests a longer gap, or an immediate run, gets it.
func TestAJobSetsItsNextRunUnlessSomethingHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := redistest.New(t)
		var n, event atomic.Int64
		defer join(t, server, "a", nil, maintenance.Job{
			Name: "adaptive", Every: time.Minute,
			Run:   func(context.Context) (time.Duration, error) { n.Add(1); return 10 * time.Minute, nil },
			Since: func() time.Time { return time.UnixMilli(event.Load()) },
		}).stop()
		time.Sleep(9 * time.Minute)
		require.EqualValues(t, 1, n.Load())
		event.Store(time.Now().UnixMilli())
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 2, n.Load())
		time.Sleep(9 * time.Minute)
		require.EqualValues(t, 2, n.Load())
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 3, n.Load())
	})
}

// A job that hangs, fails or panics does not delay the other jobs.
func TestAJobThatFailsIsLoggedOnceAndHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := redistest.New(t)
		var text syncBuffer
		log := slog.New(slog.NewTextHandler(&text, nil))
		var n atomic.Int64
		m := join(t, server, "a", log,
			maintenance.Job{Name: "hangs", Every: time.Second, Run: func(ctx context.Context) (time.Duration, error) { <-ctx.Done(); return 0, nil }},
			maintenance.Job{Name: "fails", Every: time.Second, Run: func(context.Context) (time.Duration, error) { return 0, errors.New("bucket away") }},
			counting(time.Second, &n))
		defer m.stop()
		time.Sleep(30 * time.Second)
		require.Empty(t, text.String())
		time.Sleep(10 * time.Minute)
		require.Greater(t, n.Load(), int64(600))
		require.Equal(t, 1, strings.Count(text.String(), "bucket away"), text.String())
		m.stop()
	})
}

func TestAPanicOfAJobEndsNeitherTheWorkerNorTheOtherJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		defer join(t, redistest.New(t), "a", nil, counting(time.Second, &n),
			maintenance.Job{Name: "panics", Every: time.Second, Run: func(context.Context) (time.Duration, error) { panic("out of range") }}).stop()
		time.Sleep(time.Minute)
		require.Greater(t, n.Load(), int64(50))
	})
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
