package engine_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// A task that fails at its deadline names the answer that delayed it, and the number of
// calls.
func TestAPassedDeadlineNamesTheLastAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		payload tasks.Payload
		kind    string
	}{
		"single call": {tasks.Text{Prompt: "hi"}, "text"}, "coalesced": {tasks.Embedding{Texts: []string{"hi"}}, "embedding"},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				r.cfg.Kinds = []tasks.Kind{tasks.Kind(c.kind)}
				r.ai.Fault(workersaitest.Fault{Kind: c.kind, Code: 10000})
				r.work()
				result := r.wait(r.enqueue(c.payload, tasks.WithTimeToLive(3*time.Minute)))
				require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
				require.Contains(t, result.Error.Message, "; last: workers ai 401/10000: Authentication error")
				require.Contains(t, result.Error.Message, fmt.Sprintf("(%d calls)", result.Usage.Calls))
				require.GreaterOrEqual(t, result.Usage.Calls, 2)
				require.WithinDuration(t, result.CreatedAt.Add(3*time.Minute), result.FinishedAt, 20*time.Second)
			})
		})
	}
}

// The reason survives the end of the worker, in Redis alone.
func TestAPassedDeadlineNamesTheAnswerThatAnotherWorkerGot(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.ai.Fault(workersaitest.Fault{Kind: "text", Status: 503, Body: "upstream away"})
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(time.Minute))
		time.Sleep(2 * time.Second)
		r.stop()
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.work()
		result := r.wait(id)
		require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
		require.Contains(t, result.Error.Message, "; last: workers ai 503")
		require.Contains(t, result.Error.Message, fmt.Sprintf("(%d call", result.Usage.Calls))
	})
}

func TestAPassedDeadlineNamesTheGateOrTheMissingWorker(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		require.NoError(t, r.cfg.Gate.Set(t.Context(), texter, 0))
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.work()
		atGate := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(time.Minute))
		nobody := r.enqueue(tasks.Image{Prompt: "a mill"}, tasks.WithTimeToLive(time.Minute))
		require.Contains(t, r.wait(atGate).Error.Message, "; waited for the gate of "+texter+": its pace is set to 0")
		require.Contains(t, r.wait(nobody).Error.Message, "; waited for a free worker")
	})
}

// A gate closed beyond a deadline ends the task at the deadline, not before. The task
// occupies no worker slot meanwhile.
func TestAClosureBeyondADeadlineEndsTheTaskAtItsDeadline(t *testing.T) {
	realtest.Long(t)
	for name, c := range map[string]struct {
		payload tasks.Payload
		kind    string
	}{
		"single call": {tasks.Text{Prompt: "waits"}, "text"}, "coalesced": {tasks.Embedding{Texts: []string{"waits"}}, "embedding"},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				kind := tasks.Kind(c.kind)
				r.cfg.Kinds = []tasks.Kind{kind}
				time.Sleep(23 * time.Hour)                                       // right after midnight the API may not have reset the quota
				r.ai.Fault(workersaitest.Fault{Kind: c.kind, To: 1, Code: 4006}) // the day's allocation is used up
				r.work()
				first := r.enqueue(c.payload) // its deadline is tomorrow
				time.Sleep(10 * time.Second)
				start := time.Now()
				var ids []string
				for range 3 {
					ids = append(ids, r.enqueue(c.payload, tasks.WithTimeToLive(30*time.Minute)))
				}
				time.Sleep(30*time.Minute - time.Minute)
				require.Zero(t, r.ended(ids))
				active := "asynq:{" + tasks.Queue(kind, tasks.Interactive) + "}:active"
				require.Zero(t, r.redis.LLen(t.Context(), active).Val(), "no worker slot is held")
				for _, id := range ids {
					result := r.wait(id)
					require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
					require.Contains(t, result.Error.Message, "the free daily allocation is spent")
					require.WithinDuration(t, start.Add(30*time.Minute), result.FinishedAt, 20*time.Second)
				}
				require.Len(t, r.ai.Requests(), 1)
				require.Equal(t, tasks.Completed, r.wait(first).Status)
			})
		})
	}
}

// A gate opened early lets deferred tasks run before their deadline.
func TestATaskThatWasDeferredBeyondItsDeadlineRunsWhenTheGateIsOpened(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		time.Sleep(time.Hour)
		r.ai.Fault(workersaitest.Fault{Kind: "text", To: 1, Code: 4006})
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "waits"}, tasks.WithTimeToLive(2*time.Hour))
		time.Sleep(time.Minute)
		require.NoError(t, r.cfg.Gate.Open(t.Context(), "account"))
		start := time.Now()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Less(t, time.Since(start), 10*time.Second)
	})
}

// A task that waits or repeats for longer than a minute is logged once, with the reason.
func TestLongWaitsAreLoggedOnce(t *testing.T) {
	realtest.Long(t)
	alone(t, func(t *testing.T, r *rig) {
		var log safeBuffer
		r.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		r.cfg.Kinds = []tasks.Kind{tasks.KindText, tasks.KindEmbedding, tasks.KindTranslation}
		require.NoError(t, r.cfg.Gate.Set(t.Context(), texter, 0))
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		r.ai.Fault(workersaitest.Fault{Kind: "translation", Code: 3040}) // no capacity
		r.work()
		for i := range 4 {
			r.enqueue(tasks.Text{Prompt: fmt.Sprint("text ", i)})
			r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("text ", i)}})
		}
		id := r.enqueue(tasks.Translation{Text: "no capacity", TargetLang: "es"})
		time.Sleep(50 * time.Second)
		require.NotContains(t, log.String(), "more than a minute")
		time.Sleep(10 * time.Minute)
		for _, want := range []string{"the gate of " + texter, "the gate of " + embedder} {
			require.Equal(t, 1, strings.Count(log.String(), `for="`+want), log.String())
		}
		require.Equal(t, 1, strings.Count(log.String(), `msg="task comes again since more than a minute" task=`+id), log.String())
		r.ai.Heal()
	})
}
