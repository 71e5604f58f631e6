package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// fault sets a fault at the emulator.
func (f *fleet) fault(what workersaitest.Fault) {
	f.t.Helper()
	document, err := json.Marshal(what)
	require.NoError(f.t, err)
	resp, err := http.Post(f.api+"/_emulator/faults", "application/json", bytes.NewReader(document))
	require.NoError(f.t, err)
	resp.Body.Close()
	require.Equal(f.t, http.StatusOK, resp.StatusCode)
}

// enqueue enqueues n translations in a lane.
func (f *fleet) enqueue(n int, lane tasks.Lane) {
	f.t.Helper()
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "line %d\n", i)
	}
	ids := f.runOn(lines.String(), "enqueue", "translation", "-", "--target-lang", "es", "--lane", string(lane))
	require.Len(f.t, strings.Fields(ids), n)
}

// alive waits for the heartbeats of n workers.
func (f *fleet) alive(n int) {
	f.t.Helper()
	count := func(ctx context.Context, r redis.Cmdable) int64 {
		return int64(len(r.Keys(ctx, "neuronmill:worker:*").Val()))
	}
	require.Eventually(f.t, func() bool {
		cluster, ok := f.redis.(*redis.ClusterClient)
		if !ok {
			return count(f.t.Context(), f.redis) == int64(n)
		}
		var found atomic.Int64
		err := cluster.ForEachMaster(f.t.Context(), func(ctx context.Context, m *redis.Client) error {
			found.Add(count(ctx, m))
			return nil
		})
		return err == nil && found.Load() == int64(n)
	}, time.Minute, 50*time.Millisecond)
}

// called waits until the emulator has received n calls.
func (f *fleet) called(n int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return len(f.calls()) >= n }, time.Minute, 100*time.Millisecond)
}

// ended waits until n tasks have completed and Redis keeps nothing of them.
func (f *fleet) ended(n int) {
	f.t.Helper()
	var results map[string]tasks.Result
	require.Eventually(f.t, func() bool {
		results = f.results("default/tasks/")
		return len(results) == n && f.pending() == 0
	}, 4*time.Minute, 500*time.Millisecond, "the tasks do not all end")
	for id, r := range results {
		require.Equal(f.t, tasks.Completed, r.Status, id)
	}
}

// TestRedisMayBeKilledUnderLoad kills Redis while calls run. The calls continue. Neither
// their results nor waiting tasks are lost, and no call is paid for twice.
func TestRedisMayBeKilledUnderLoad(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	for name, mangle := range map[string]func(*realtest.Server){
		"and keep its file":               func(*realtest.Server) {},
		"and lose the tail of its file":   func(s *realtest.Server) { s.CutTail(3000) },
		"and lose its file as if it were": (*realtest.Server).Forget,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, server := newFleetOnOne(t)
			f.fault(workersaitest.Fault{Delay: 5 * time.Second})
			f.start("worker", "--kinds", "translation", "--concurrency", "3")
			f.enqueue(5, tasks.Interactive)
			f.enqueue(5, tasks.Bulk)
			f.called(6)
			server.Kill()
			mangle(server)
			server.Start()
			f.ended(10)
			require.Len(t, f.calls(), 10)
		})
	}
}

func TestASentinelMayFailOverUnderLoad(t *testing.T) {
	t.Parallel()
	sentinels, servers := realtest.RedisSentinel(t, "mill")
	f := newFleetOn(t, "redis-sentinel://"+realtest.Addrs(sentinels)+"/mill",
		redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mill", SentinelAddrs: strings.Split(realtest.Addrs(sentinels), ",")}))
	f.fault(workersaitest.Fault{Delay: 5 * time.Second})
	f.start("worker", "--kinds", "translation", "--concurrency", "3")
	f.enqueue(10, tasks.Interactive)
	f.called(3)
	servers[0].Kill()
	f.ended(10)
	require.Len(t, f.calls(), 10)
}

func TestAMasterOfAClusterMayBeKilledUnderLoad(t *testing.T) {
	t.Parallel()
	servers := realtest.RedisCluster(t)
	addrs := realtest.Addrs(servers)
	f := newFleetOn(t, "redis-cluster://"+addrs, redis.NewClusterClient(&redis.ClusterOptions{Addrs: strings.Split(addrs, ",")}))
	f.fault(workersaitest.Fault{Delay: 5 * time.Second})
	f.start("worker", "--kinds", "translation", "--concurrency", "3")
	f.enqueue(5, tasks.Interactive)
	f.enqueue(5, tasks.Bulk)
	f.called(6)
	for _, s := range servers { // one of them has the queue
		s.Kill()
		s.Start()
		realtest.WaitTCP(t, s.Addr)
	}
	f.ended(10)
	require.Len(t, f.calls(), 10)
}

// TestAClusterThatLosesItsLastMomentsCostsNoSecondCall: after the failover the queue
// delivers a task a second time while its living owner still runs it.
func TestAClusterThatLosesItsLastMomentsCostsNoSecondCall(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	for name, late := range map[string]bool{"to a worker that was there": false, "to a worker that starts then": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := realtest.RedisCluster(t)
			addrs := realtest.Addrs(servers)
			f := newFleetOn(t, "redis-cluster://"+addrs, redis.NewClusterClient(&redis.ClusterOptions{Addrs: strings.Split(addrs, ",")}))
			f.fault(workersaitest.Fault{Delay: 20 * time.Second})
			f.enqueue(4, tasks.Interactive)
			before := make([]int64, len(servers))
			for i, s := range servers {
				before[i] = s.Moment()
			}
			work := func() { f.start("worker", "--kinds", "translation", "--concurrency", "4") }
			work()
			f.called(4)
			if !late {
				work()
				f.alive(2)
			}
			for i, s := range servers {
				s.Kill()
				s.SetBack(before[i])
			}
			for _, s := range servers {
				s.Start()
			}
			if late {
				work()
			}
			f.ended(4)
			require.Len(t, f.calls(), 4)
		})
	}
}

// TestFiveRollingRestartsCostNoCall replaces the worker repeatedly while calls of 20 s
// run. Each worker finishes its running calls.
func TestFiveRollingRestartsCostNoCall(t *testing.T) {
	t.Parallel()
	const restarts = 5
	f := newFleet(t)
	f.fault(workersaitest.Fault{Delay: 20 * time.Second})
	var stopped []*exec.Cmd
	worker := f.start("worker", "--kinds", "translation")
	for i := range restarts {
		f.enqueue(2, tasks.Interactive)
		f.called(2 * (i + 1))
		next := f.start("worker", "--kinds", "translation")
		require.NoError(t, worker.Process.Signal(syscall.SIGTERM))
		stopped, worker = append(stopped, worker), next
	}
	for _, w := range stopped {
		require.NoError(t, w.Wait(), "a worker drains and ends well")
	}
	f.ended(2 * restarts)
	require.Len(t, f.calls(), 2*restarts)
}

func TestASecondSIGTERMStopsAtOnceAndLosesNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.fault(workersaitest.Fault{Delay: 10 * time.Minute, To: 1})
	worker := f.start("worker", "--kinds", "image")
	id := strings.TrimSpace(f.run("enqueue", "image", "cut short"))
	f.called(1)
	done := make(chan error, 1)
	go func() { done <- worker.Wait() }()
	require.Eventually(t, func() bool { // simultaneous signals merge into one
		_ = worker.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
			return true
		default:
			return false
		}
	}, time.Minute, 100*time.Millisecond)
	require.Equal(t, 130, worker.ProcessState.ExitCode())
	f.setLease(id, time.Unix(1, 0))
	f.start("worker", "--kinds", "image")
	f.ended(1)
	require.Len(t, f.calls(), 2, "one that was cut short and one more")
}
