package main

import (
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// TestWorkerProcessesShareOneGate: workers with separate gates would finish in a third of
// the time.
func TestWorkerProcessesShareOneGate(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for range 3 {
		f.startWith([]string{"NEURONMILL_LIMITS=translation=300"}, "worker", "--kinds", "translation", "--concurrency", "4")
	}
	f.alive(3)
	const n = 30
	f.enqueue(n, tasks.Interactive)
	f.ended(n)
	calls := f.calls()
	require.Len(t, calls, n)
	interval := time.Minute / 300
	took := calls[n-1].At.Sub(calls[0].At)
	require.Greater(t, took, (n-1)*interval-time.Second, "a call may be a second on its way")
	passed, err := f.redis.HGet(t.Context(), gate.Key(translator()), "calls").Int()
	require.NoError(t, err)
	require.Equal(t, n, passed)
}

// translator returns the id of the default translation model.
func translator() string { return catalogue.Default("translation").ID }

// TestAClosedGateStaysClosedWhenRedisAndTheWorkersStartAnew: before the next probe is
// due, only an operator can open a gate that the account's refusal closed.
func TestAClosedGateStaysClosedWhenRedisAndTheWorkersStartAnew(t *testing.T) {
	t.Parallel()
	f, server := newFleetOnOne(t)
	f.fault(workersaitest.Fault{Code: 10000, To: 2})
	first := f.start("worker", "--kinds", "translation")
	f.enqueue(1, tasks.Interactive)
	f.called(2)
	held := func() bool { return f.redis.HExists(t.Context(), gate.Key(translator()), "hold").Val() }
	require.Eventually(t, held, 30*time.Second, 50*time.Millisecond)
	require.NoError(t, first.Process.Kill())
	_ = first.Wait()
	server.Kill()
	server.Start()
	realtest.WaitTCP(t, server.Addr)
	require.True(t, held())
	f.start("worker", "--kinds", "translation")
	f.enqueue(1, tasks.Interactive)
	require.Never(t, func() bool { return len(f.calls()) > 2 }, 5*time.Second, 100*time.Millisecond)
	f.run("gate", "open", translator())
	f.ended(2)
	require.Len(t, f.calls(), 4)
}
