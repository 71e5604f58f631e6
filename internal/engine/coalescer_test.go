package engine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const embedder = "@cf/baai/bge-base-en-v1.5"

// meter counts the commands of a Redis client. It slows down a client that sends
// thousands of commands at one instant: a loop without a pause would stop the clock of a
// bubble.
type meter struct {
	mu      sync.Mutex
	total   int
	at      time.Time
	instant int
	loops   bool
}

func (m *meter) count(n int) {
	m.mu.Lock()
	m.total += n
	if now := time.Now(); now.Equal(m.at) {
		m.instant += n
	} else {
		m.at, m.instant = now, n
	}
	m.loops = m.loops || m.instant > 5000
	loops := m.loops
	m.mu.Unlock()
	if loops {
		time.Sleep(10 * time.Millisecond)
	}
}

// commands returns how many commands have been sent so far.
func (m *meter) commands() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

func (m *meter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (m *meter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		m.count(1)
		return next(ctx, cmd)
	}
}

func (m *meter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		m.count(len(cmds))
		return next(ctx, cmds)
	}
}

// ended counts the tasks with a result.
func (r *rig) ended(ids []string) int {
	n := 0
	for _, id := range ids {
		if _, err := r.client.Result(r.t.Context(), id); err == nil {
			n++
		}
	}
	return n
}

// stopsWithin requires the worker to stop in time.
func (r *rig) stopsWithin(most time.Duration) {
	r.t.Helper()
	start := time.Now()
	r.stop()
	require.LessOrEqual(r.t, time.Since(start), most)
}

// The deadlines of a group pass during its call, which is refused. The group is not
// split, because its tasks have no time left.
func TestAGroupWhoseDeadlinesPassedDuringItsCallAsksTheGateNoMore(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		m := &meter{}
		r.redis.AddHook(m)
		r.paced(60)
		r.ai.Fault(workersaitest.Fault{Contains: "bad text", Delay: 6 * time.Second, Code: 5006})
		r.work()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"first"}})) // the next tasks wait together for a permit
		var ids []string
		for _, text := range []string{"bad text", "good one", "good two"} {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{text}}, tasks.WithTimeToLive(5*time.Second)))
		}
		time.Sleep(8 * time.Second)
		before := m.commands()
		time.Sleep(10 * time.Second)
		require.Less(t, m.commands()-before, 10*300, "as many as an idle worker sends")
		require.Equal(t, 3, r.ended(ids))
		for _, id := range ids {
			require.Equal(t, tasks.CodeDeadlineExceeded, r.wait(id).Error.Code)
		}
		require.Len(t, r.ai.Requests(), 2)
		r.stopsWithin(time.Second)
	})
}

// splitAtAClosedGate has a group refused, and closes the gate before the group is split.
// Six tasks then wait, with five minutes to their deadline.
func splitAtAClosedGate(t *testing.T, story func(t *testing.T, r *rig, ids []string)) {
	alone(t, func(t *testing.T, r *rig) {
		r.paced(6)
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.ai.Fault(workersaitest.Fault{Contains: "bad text", Delay: 5 * time.Second, Code: 5006})
		r.work()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"first"}})) // the next tasks wait together for a permit
		ids := []string{r.enqueue(tasks.Embedding{Texts: []string{"bad text"}}, tasks.WithTimeToLive(5*time.Minute))}
		for i := range 5 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("good ", i)}}, tasks.WithTimeToLive(5*time.Minute)))
		}
		time.Sleep(12 * time.Second)
		require.Len(t, r.ai.Requests(), 2)
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		time.Sleep(time.Minute)
		require.Zero(t, r.ended(ids))
		story(t, r, ids)
	})
}

func TestASplitGroupAtAClosedGateEndsAtItsDeadline(t *testing.T) {
	splitAtAClosedGate(t, func(t *testing.T, r *rig, ids []string) {
		time.Sleep(4*time.Minute + 30*time.Second)
		require.Equal(t, len(ids), r.ended(ids))
		for _, id := range ids {
			require.Equal(t, tasks.CodeDeadlineExceeded, r.wait(id).Error.Code)
		}
	})
}

func TestATaskOfASplitGroupAtAClosedGateCanBeCancelled(t *testing.T) {
	splitAtAClosedGate(t, func(t *testing.T, r *rig, ids []string) {
		for _, id := range []string{ids[0], ids[5]} { // one in the part that asks the gate, one in a later part
			require.NoError(t, r.client.Cancel(t.Context(), id))
		}
		time.Sleep(10 * time.Second)
		require.Equal(t, tasks.CodeCancelled, r.wait(ids[0]).Error.Code)
		require.Equal(t, tasks.CodeCancelled, r.wait(ids[5]).Error.Code)
		require.Equal(t, 2, r.ended(ids))
		require.NoError(t, r.cfg.Gate.Reset(t.Context(), embedder))
		for _, id := range ids[1:5] {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
	})
}

func TestAWorkerWithASplitGroupAtAClosedGateStops(t *testing.T) {
	splitAtAClosedGate(t, func(t *testing.T, r *rig, _ []string) {
		r.stopsWithin(time.Second)
	})
}

// The wait of a group at the gate ends when all its tasks have gone: it takes no slot for
// a call that nobody wants.
func TestTheWaitOfAGroupEndsWhenNobodyIsLeft(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.paced(6)
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.work()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"first"}}))
		id := r.enqueue(tasks.Embedding{Texts: []string{"goes"}})
		time.Sleep(time.Second)
		require.NoError(t, r.client.Cancel(t.Context(), id))
		require.Equal(t, tasks.CodeCancelled, r.wait(id).Error.Code)
		time.Sleep(30 * time.Second)
		states, err := r.cfg.Gate.States(t.Context(), embedder)
		require.NoError(t, err)
		require.Equal(t, 1, states[0].Calls, "let through")
		require.Zero(t, states[0].Interactive)
	})
}

// A task cancelled while its group waits for a permit is not part of the call.
func TestACancelledTaskIsNotInTheCallOfItsGroup(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.paced(6)
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.work()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"first"}}))
		goes := r.enqueue(tasks.Embedding{Texts: []string{"goes"}})
		stays := r.enqueue(tasks.Embedding{Texts: []string{"stays"}})
		time.Sleep(time.Second)
		require.NoError(t, r.client.Cancel(t.Context(), goes))
		require.Equal(t, tasks.CodeCancelled, r.wait(goes).Error.Code)
		require.Equal(t, tasks.Completed, r.wait(stays).Status)
		require.Len(t, r.ai.Requests(), 2)
		first, second := r.ai.Requests()[0], r.ai.Requests()[1]
		require.NotContains(t, string(second.Body), "goes")
		require.Less(t, second.At.Sub(first.At), 12*time.Second, "the next slot is used")
	})
}

// A task whose deadline passes while its group waits for a permit is not part of the
// call.
func TestAnExpiredTaskIsNotInTheCallOfItsGroup(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.paced(6)
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.work()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"first"}}))
		late := r.enqueue(tasks.Embedding{Texts: []string{"late"}}, tasks.WithTimeToLive(3*time.Second))
		stays := r.enqueue(tasks.Embedding{Texts: []string{"stays"}})
		require.Equal(t, tasks.CodeDeadlineExceeded, r.wait(late).Error.Code)
		require.Equal(t, tasks.Completed, r.wait(stays).Status)
		require.NotContains(t, string(r.ai.Requests()[1].Body), "late")
	})
}

// The model bounds the total tokens of a call, for any number of waiting tasks.
func TestACallOfManyTasksStaysBelowTheTokensOfItsModel(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		const model, most = "@cf/baai/bge-m3", 60_000
		r.paced(20)
		r.cfg.Kinds, r.cfg.Concurrency = []tasks.Kind{tasks.KindEmbedding}, 8
		text := func(i int) string { return fmt.Sprintf("%04d ", i) + longText(15_000) }
		var ids []string
		for i := range 30 { // 5,000 tokens each
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{text(i)}}, tasks.WithModel(model)))
		}
		r.work()
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		for _, q := range r.calls(model) {
			require.LessOrEqual(t, len(q.Body)/3, most)
		}
		require.LessOrEqual(t, len(r.calls(model)), 4)
	})
}

func longText(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcde "[i%6]
	}
	return string(b)
}

// A task that has paid for one of its parts keeps its worker slot while it waits for the
// next permit, although tasks of other models need the slot.
func TestATaskBetweenTwoPartsKeepsItsSlot(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.ai.Fault(workersaitest.Fault{Kind: "embedding", To: 1, Delay: 5 * time.Second})
		texts := make([]string, 250)
		for i := range texts {
			texts[i] = fmt.Sprint("text ", i)
		}
		id := r.enqueue(tasks.Embedding{Texts: texts})
		r.work()
		time.Sleep(2 * time.Second)
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Embedding{Texts: []string{"other"}}, tasks.WithModel("@cf/baai/bge-m3"))).Status)
		r.enqueue(tasks.Embedding{Texts: []string{"waits"}}) // deferred, because the queue is shared
		time.Sleep(30 * time.Second)
		require.NotContains(t, r.redis.ZRange(t.Context(), queue.DeferredKey("embedding:interactive", embedder), 0, -1).Val(), id)
		require.Contains(t, r.redis.LRange(t.Context(), "asynq:{embedding:interactive}:active", 0, -1).Val(), id)
		require.NoError(t, r.cfg.Gate.Reset(t.Context(), embedder))
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, []int{3, 1}, []int{result.Usage.Calls, result.Attempts})
	})
}
