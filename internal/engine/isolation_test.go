package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

const (
	texter     = "@cf/zai-org/glm-4.7-flash"
	translator = "@cf/meta/m2m100-1.2b"
)

// suspect sets the crash count of a task.
func (r *rig) suspect(id string, crashes int) {
	r.t.Helper()
	require.NoError(r.t, r.redis.HSet(r.t.Context(), taskstate.LiveKey(id), "crashes", crashes, "calls", crashes, "attempts", crashes).Err())
}

// A task in exclusive isolation does not wait for tasks at a closed gate, and no task
// waits behind it.
func TestASuspectDoesNotStopItsWorkerWhileAnotherGateIsClosed(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText, tasks.KindEmbedding, tasks.KindTranslation}
		require.NoError(t, r.cfg.Gate.Set(t.Context(), texter, 0))
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		waits := []string{r.enqueue(tasks.Text{Prompt: "waits in place"}), r.enqueue(tasks.Embedding{Texts: []string{"waits in place"}})}
		suspect := r.enqueue(tasks.Translation{Text: "suspect", TargetLang: "es"}, tasks.WithDelay(5*time.Second))
		r.suspect(suspect, 2)
		r.work()
		time.Sleep(20 * time.Second)
		require.Equal(t, 1, r.ended([]string{suspect}))
		var innocent []string
		for i := range 20 {
			innocent = append(innocent, r.enqueue(tasks.Translation{Text: fmt.Sprint("hello ", i), TargetLang: "es"}))
		}
		time.Sleep(20 * time.Second)
		require.Equal(t, len(innocent), r.ended(innocent))
		require.NoError(t, r.cfg.Gate.Reset(t.Context(), texter))
		require.NoError(t, r.cfg.Gate.Reset(t.Context(), embedder))
		for _, id := range append(waits, suspect) {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
	})
}

// A suspect that waits at its own closed gate delays no other task.
func TestASuspectAtItsOwnClosedGateDoesNotStopItsWorker(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText, tasks.KindEmbedding, tasks.KindTranslation}
		require.NoError(t, r.cfg.Gate.Set(t.Context(), texter, 0))
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		r.suspect(r.enqueue(tasks.Text{Prompt: "suspect"}, tasks.WithDelay(time.Second)), 2)
		r.suspect(r.enqueue(tasks.Embedding{Texts: []string{"suspect"}}, tasks.WithDelay(time.Second)), 2)
		r.work()
		time.Sleep(10 * time.Second)
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Translation{Text: "hello", TargetLang: "es"})).Status)
		require.Less(t, time.Since(r.calls(translator)[0].At), 5*time.Second)
	})
}

// overlaps returns the calls that run at the same time as those that contain the mark.
func overlaps(calls []workersaitest.Request, mark string, took time.Duration) []string {
	var with []string
	for _, a := range calls {
		for _, b := range calls {
			gap := a.At.Sub(b.At).Abs()
			if strings.Contains(string(a.Body), mark) && !strings.Contains(string(b.Body), mark) && gap < took {
				with = append(with, string(b.Body))
			}
		}
	}
	return with
}

// A task in exclusive isolation is called for alone, whatever else the worker runs.
func TestNoCallRunsBesideThatOfASuspectThatMustBeAlone(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	for name, payload := range map[string]tasks.Payload{
		"single call": tasks.Text{Prompt: "suspect"}, "coalesced": tasks.Embedding{Texts: []string{"suspect"}},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				r.cfg.Kinds = []tasks.Kind{tasks.KindText, tasks.KindEmbedding}
				r.paced(600)
				r.ai.Fault(workersaitest.Fault{Delay: 3 * time.Second})
				suspect := r.enqueue(payload, tasks.WithDelay(5*time.Second))
				r.suspect(suspect, 2)
				r.work()
				var ids []string
				for i := range 60 {
					ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("text ", i)}), r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("embed ", i)}}))
					time.Sleep(500 * time.Millisecond)
				}
				for _, id := range append(ids, suspect) {
					require.Equal(t, tasks.Completed, r.wait(id).Status)
				}
				require.Empty(t, overlaps(r.ai.Requests(), "suspect", 3*time.Second))
			})
		})
	}
}

// Suspects with one crash share calls with a few suspects of their kind, never with other
// tasks.
func TestSuspectsShareCallsWithAFewSuspectsOnly(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds, r.cfg.Concurrency = []tasks.Kind{tasks.KindEmbedding}, 8
		r.paced(60)
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		var ids []string
		for i := range 40 {
			id := r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint([]string{"suspect ", "innocent "}[i%2], i)}}, tasks.WithDelay(time.Second))
			if ids = append(ids, id); i%2 == 0 {
				r.suspect(id, 1)
			}
		}
		r.work()
		time.Sleep(10 * time.Second)
		require.NoError(t, r.cfg.Gate.Reset(t.Context(), embedder))
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		for _, q := range r.ai.Requests() {
			suspects := strings.Count(string(q.Body), "suspect")
			require.LessOrEqual(t, suspects, 4)
			require.False(t, suspects > 0 && strings.Contains(string(q.Body), "innocent"))
		}
		require.LessOrEqual(t, len(r.ai.Requests()), 8)
	})
}

// A permit released unused for a suspect leaves no call in flight at the gate.
func TestAPermitThatIsNotUsedIsGivenBack(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.paced(600)
		r.ai.Fault(workersaitest.Fault{Delay: 3 * time.Second})
		suspect := r.enqueue(tasks.Text{Prompt: "suspect"}, tasks.WithDelay(time.Second))
		r.suspect(suspect, 2)
		r.work()
		ids := []string{suspect}
		for i := range 20 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("text ", i)}))
			time.Sleep(200 * time.Millisecond)
		}
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		time.Sleep(10 * time.Second)
		states, err := r.cfg.Gate.States(t.Context(), texter)
		require.NoError(t, err)
		require.Equal(t, [3]int{}, [3]int{states[0].InFlight, states[0].Interactive, states[0].Bulk})
	})
}
