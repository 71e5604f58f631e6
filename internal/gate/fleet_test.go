package gate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func init() { redis.SetLogger(discard{}) } // the loss of Redis is part of some tests

type discard struct{}

func (discard) Printf(context.Context, string, ...any) {}

// network is a hook that lets each request take some time both ways, and counts the
// scripts that were run.
type network struct {
	mu      sync.Mutex
	rand    *rand.Rand
	scripts int
	usual   time.Duration // requests come late by a random part of this,
	seldom  time.Duration // and one in twenty by this
}

func (n *network) delay(commands ...redis.Cmder) {
	n.mu.Lock()
	for _, c := range commands {
		if strings.HasPrefix(c.Name(), "eval") {
			n.scripts++
		}
	}
	d := 150*time.Microsecond + time.Duration(n.rand.Int64N(int64(1500*time.Microsecond)))
	if len(commands) > 0 {
		d += time.Duration(n.rand.Int64N(int64(n.usual) + 1))
		if n.seldom > 0 && n.rand.IntN(20) == 0 {
			d += n.seldom
		}
	}
	n.mu.Unlock()
	time.Sleep(d)
}

// questions is how many scripts were run until now.
func (n *network) questions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.scripts
}

func (n *network) DialHook(next redis.DialHook) redis.DialHook { return next }

func (n *network) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		n.delay(cmd)
		defer n.delay()
		return next(ctx, cmd)
	}
}

func (n *network) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		n.delay(cmds...)
		defer n.delay()
		return next(ctx, cmds)
	}
}

// fleet is a number of processes at one gate, with a strict record of their calls.
type fleet struct {
	t      *testing.T
	server *redistest.Server
	net    *network
	ctx    context.Context
	redis  *redis.Client // of the test
	links  []*redistest.Link
	gates  []*gate.Gate
	dead   []atomic.Bool
	limit  int
	start  time.Time
	rand   *rand.Rand

	wg    sync.WaitGroup
	mu    sync.Mutex
	calls []call
}

type call struct {
	at      time.Time
	lane    string
	process int
	waited  time.Duration
}

// newFleet starts processes that listen for messages, in a bubble.
func newFleet(t *testing.T, perMinute, processes int, share float64) *fleet {
	f := &fleet{
		t: t, server: redistest.New(t), limit: perMinute, start: time.Now(), rand: rand.New(rand.NewPCG(7, uint64(perMinute+processes))),
	}
	f.net = &network{rand: rand.New(rand.NewPCG(3, uint64(perMinute+processes)))}
	f.redis, f.dead = f.server.Client(nil), make([]atomic.Bool, processes)
	for range processes {
		link := &redistest.Link{}
		rdb := f.server.Client(link)
		rdb.AddHook(f.net)
		f.links = append(f.links, link)
		f.gates = append(f.gates, gate.New(gate.Config{
			Redis: rdb, BulkShare: share,
			Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: perMinute, Source: "catalogue"} },
		}))
	}
	t.Cleanup(runs(t, f.gates...))
	time.Sleep(100 * time.Millisecond)
	return f
}

// until lets callers call until a time from the start.
func (f *fleet) until(end time.Duration) (stop func()) {
	ctx, cancel := context.WithDeadline(f.t.Context(), f.start.Add(end))
	f.ctx = ctx
	return cancel
}

// bulk lets n callers of a process call again and again; a call takes 20 ms.
func (f *fleet) bulk(process, n int) { f.callers(process, n, ask("bulk")) }

func (f *fleet) callers(process, n int, a gate.Request) {
	for range n {
		f.wg.Go(func() {
			for f.ctx.Err() == nil && !f.dead[process].Load() {
				f.call(process, a)
			}
		})
	}
}

// kill ends a process where it stands. Of a lost host the connections stay open.
func (f *fleet) kill(process int, lost bool) {
	f.dead[process].Store(true)
	f.links[process].Cut()
	if lost {
		sub := f.redis.Subscribe(f.t.Context(), "neuronmill:gate:to:"+f.gates[process].Process())
		_, err := sub.Receive(f.t.Context())
		require.NoError(f.t, err)
		f.t.Cleanup(func() { sub.Close() })
	}
}

// call makes one call, if it is let through.
func (f *fleet) call(process int, a gate.Request) {
	asked := time.Now()
	p, err := f.gates[process].Acquire(f.ctx, a)
	if err != nil {
		if pause, ok := errors.AsType[*gate.RetryLaterError](err); ok {
			time.Sleep(min(time.Until(pause.Until), 500*time.Millisecond))
		}
		return
	}
	if f.dead[process].Load() {
		return // it was let through and has not called
	}
	f.mu.Lock()
	way := time.Duration(f.rand.Int64N(int64(20 * time.Millisecond)))
	f.calls = append(f.calls, call{time.Now().Add(way), a.Lane, process, time.Since(asked)})
	f.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	_, _ = p.Release(context.WithoutCancel(f.ctx), gate.Passed, 0)
}

// arrivals lets interactive callers arrive at random, this many a minute, and at the same times in every run.
func (f *fleet) arrivals(process int, perMinute float64) {
	random := rand.New(rand.NewPCG(5, uint64(process)))
	f.wg.Go(func() {
		for f.ctx.Err() == nil {
			time.Sleep(time.Duration(random.ExpFloat64() / perMinute * float64(time.Minute)))
			f.wg.Go(func() { f.call(process, gate.Request{Model: model, Kind: "text", Lane: "interactive"}) })
		}
	})
}

// made is the calls that arrived between two times from the start, sorted.
func (f *fleet) made(from, to time.Duration, lane string) []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	var made []call
	for _, c := range f.calls {
		if at := c.at.Sub(f.start); at >= from && at < to && (lane == "" || c.lane == lane) {
			made = append(made, c)
		}
	}
	slices.SortFunc(made, func(a, b call) int { return a.at.Compare(b.at) })
	return made
}

// used is the part of the limit that was used.
func (f *fleet) used(from, to time.Duration) float64 {
	return float64(len(f.made(from, to, ""))) / (float64(f.limit) * (to - from).Minutes())
}

// most is the most calls that arrived in any minute.
func (f *fleet) most() int {
	made, most := f.made(0, time.Hour, ""), 0
	for i, first := 0, 0; i < len(made); i++ {
		for made[i].at.Sub(made[first].at) >= time.Minute {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func TestACallCostsTheSameHoweverManyProcessesWait(t *testing.T) {
	realtest.Long(t)
	for _, c := range []struct {
		perMinute, processes int
		last                 time.Duration
		questions            float64 // a call, at most
	}{
		{20, 1, 3 * time.Minute, 1.6}, {20, 8, 3 * time.Minute, 2}, {20, 32, 3 * time.Minute, 3},
		{300, 1, 2 * time.Minute, 1.3}, {300, 8, 2 * time.Minute, 1.3}, {300, 64, 2 * time.Minute, 1.3}, {300, 128, 2 * time.Minute, 1.3},
		{3000, 1, 15 * time.Second, 1.1}, {3000, 8, 15 * time.Second, 1.1}, {3000, 128, 30 * time.Second, 1.1},
	} {
		t.Run(fmt.Sprint(c.perMinute, " a minute, ", c.processes, " processes"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, c.perMinute, c.processes, 0.05)
				defer f.until(c.last + time.Second)()
				for i := range c.processes {
					f.bulk(i, 4)
				}
				from := c.last / 3
				time.Sleep(from)
				before := f.net.questions()
				time.Sleep(c.last - from)
				scripts := f.net.questions() - before
				f.wg.Wait()
				used, calls := f.used(from, c.last), len(f.made(from, c.last, ""))
				perCall := float64(scripts) / float64(calls)
				each := map[int]int{}
				for _, c := range f.made(0, c.last, "") {
					each[c.process]++
				}
				least, most := math.MaxInt, 0
				for i := range c.processes {
					least, most = min(least, each[i]), max(most, each[i])
				}
				t.Logf("used %.2f %%, most in a minute %d, %.2f questions a call, %d to %d calls a process", 100*used, f.most(), perCall, least, most)
				require.LessOrEqual(t, f.most(), c.perMinute)
				require.Greater(t, used, 0.985)
				require.LessOrEqual(t, perCall, c.questions)
				require.LessOrEqual(t, most-least, 3, "processes take turns")
			})
		})
	}
}

// percentile of the time that calls of a lane waited.
func percentile(calls []call, part float64) time.Duration {
	if len(calls) == 0 {
		return 0
	}
	waits := make([]time.Duration, len(calls))
	for i, c := range calls {
		waits[i] = c.waited
	}
	slices.Sort(waits)
	return waits[int(part*float64(len(waits)-1))]
}

func TestLanesShareAGateThatManyProcessesWaitFor(t *testing.T) {
	realtest.Long(t)
	for _, c := range []struct {
		perMinute   int
		interactive float64 // of the limit, at random times
		share       float64
		p50, p95    time.Duration // at most
		bulk        float64       // of the calls
		tolerance   float64
		questions   float64 // a call, at most; callers that gave up asked too
	}{
		{300, 0.2, 0.05, 200 * time.Millisecond, 450 * time.Millisecond, 0.80, 0.15, 3.3},
		{300, 0.5, 0.05, 400 * time.Millisecond, 1200 * time.Millisecond, 0.49, 0.15, 4},
		// At twice the limit somebody interactive always waits, so that what bulk gets is its share and no gap.
		{300, 2, 0.05, 3100 * time.Millisecond, 3100 * time.Millisecond, 0.05, 0.01, 5},
		{300, 2, 0.20, 3100 * time.Millisecond, 3100 * time.Millisecond, 0.20, 0.01, 5},
		{300, 2, 0, 3100 * time.Millisecond, 3100 * time.Millisecond, 0, 0.001, 5},
		{1200, 0.5, 0.05, 100 * time.Millisecond, 300 * time.Millisecond, 0.50, 0.15, 4},
		{1200, 2, 0.20, 3100 * time.Millisecond, 3100 * time.Millisecond, 0.20, 0.01, 5},
	} {
		t.Run(fmt.Sprint(c.perMinute, " a minute, interactive ", c.interactive, ", share ", c.share), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, c.perMinute, 25, c.share)
				last := 90 * time.Second
				if c.perMinute == 1200 {
					last = 30 * time.Second
				}
				defer f.until(last)()
				for i := range 20 {
					f.bulk(i, 4)
				}
				for i := range 5 {
					f.arrivals(20+i, c.interactive*float64(c.perMinute)/5)
				}
				from := 2 * last / 3 // a line of interactive callers as long as their patience has formed
				time.Sleep(from)
				before := f.net.questions()
				time.Sleep(last - from)
				scripts := f.net.questions() - before
				f.wg.Wait()
				all, people := f.made(from, last, ""), f.made(from, last, "interactive")
				bulk := 1 - float64(len(people))/float64(len(all))
				p50, p95 := percentile(people, 0.5), percentile(people, 0.95)
				perCall := float64(scripts) / float64(len(all))
				t.Logf("used %.2f %%, bulk %.1f %%, interactive waits %s, 95 %% at most %s, %.2f questions a call",
					100*f.used(from, last), 100*bulk, p50.Round(time.Millisecond), p95.Round(time.Millisecond), perCall)
				require.LessOrEqual(t, f.most(), c.perMinute)
				require.Greater(t, f.used(from, last), 0.98)
				require.InDelta(t, c.bulk, bulk, c.tolerance)
				require.LessOrEqual(t, p50, c.p50)
				require.LessOrEqual(t, p95, c.p95)
				require.Less(t, perCall, c.questions)
			})
		})
	}
}

func TestPatientCallersThatBookedFarAheadDoNotLetOthersExceedTheLimit(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 20, 4, 0.05)
		defer f.until(4 * time.Minute)()
		for range 15 { // they reserve 45 s ahead
			f.wg.Go(func() { f.call(0, ask("interactive")) })
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		for i := range 4 { // these look at most 4.5 s ahead
			f.callers(i, 4, gate.Request{Model: model, Kind: "text", Lane: "interactive"})
		}
		f.wg.Wait()
		require.LessOrEqual(t, f.most(), 20)
		require.Greater(t, f.used(time.Minute, 4*time.Minute), 0.97)
	})
}
