package engine_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// An idle worker with all its parts, leader included, hardly asks. The commands of scripts
// are not counted here.
func TestAnIdleWorkerCostsFewCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.work()
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Text{Prompt: "hi"})).Status)
		time.Sleep(time.Minute)
		before := r.server.Commands()
		time.Sleep(10 * time.Minute)
		perSecond := float64(r.server.Commands()-before) / 600
		t.Logf("%.2f commands a second", perSecond)
		require.LessOrEqual(t, perSecond, 5.0)
		pushed := time.Now()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		synctest.Wait()
		require.Len(t, r.ai.Requests(), 2, "called without polling")
		require.Zero(t, time.Since(pushed))
		r.wait(id)
		r.stop()
	})
}

// The housekeeping of tasks that wait in their queue costs few commands, however many they
// are. The commands of scripts are not counted here.
func TestWaitingTasksCostTheLeaderLittle(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		m := &meter{}
		r.redis.AddHook(m)
		r.pause("text:bulk")
		for i := range 300 {
			r.enqueue(tasks.Text{Prompt: fmt.Sprint("waits ", i)}, tasks.WithLane(tasks.Bulk), tasks.WithDurability(tasks.InRedis))
		}
		r.work()
		time.Sleep(time.Minute)
		before := m.commands()
		time.Sleep(10 * time.Minute)
		perSecond := float64(m.commands()-before) / 600
		t.Logf("%.2f commands a second, heartbeat included", perSecond)
		require.Less(t, perSecond, 12.0)
	})
}
