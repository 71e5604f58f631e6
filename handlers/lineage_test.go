package handlers_test

import (
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// TestATaskThatRedisGivesOutTwiceIsPaidOnce is a failover that lost the last second,
// less than a heartbeat: the queue has a task again that a living worker is at.
func TestATaskThatRedisGivesOutTwiceIsPaidOnce(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		other := *r
		other.link = &redistest.Link{}
		other.redis = r.server.Client(other.link)
		other.cfg.Redis = other.redis
		r.ai.Fault(workersaitest.Fault{Delay: 8 * time.Second})
		r.work()
		time.Sleep(10 * time.Second)
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithDelay(2*time.Second))
		time.Sleep(time.Second)
		before := r.server.Snapshot()
		require.Eventually(t, func() bool { return len(r.ai.Requests()) == 1 }, 5*time.Second, 100*time.Millisecond)
		other.work()
		defer func() { other.stop() }()
		time.Sleep(time.Second)

		r.link.Cut()
		other.link.Cut()
		r.server.Restore(before)
		other.link.Mend() // it is there first
		time.Sleep(2 * time.Second)
		r.link.Mend()
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		time.Sleep(time.Minute)
		require.Len(t, r.ai.Requests(), 1)
	})
}
