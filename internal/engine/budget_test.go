package engine_test

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// A lost answer may have been billed, so the next call would be the second that is paid for.
func TestNoCallIsSentThatMightCostMoreThanMaxNeurons(t *testing.T) {
	t.Parallel()
	ten := 10
	for name, c := range map[string]struct {
		payload tasks.Payload
		most    float64 // enough for one call, not for two
	}{
		"text":        {tasks.Text{Prompt: "hi", MaxTokens: &ten}, 2},
		"picture":     {tasks.Image{Prompt: "a mill"}, 200},
		"translation": {tasks.Translation{Text: "hi", TargetLang: "es"}, 0.4},
		"embedding":   {tasks.Embedding{Texts: []string{"hi"}}, 0.05},
	} {
		alone(t, func(t *testing.T, r *rig) {
			r.cfg.Kinds = []tasks.Kind{c.payload.Kind()}
			r.work()
			completed := r.wait(r.enqueue(c.payload, tasks.WithMaxNeurons(c.most)))
			require.Equal(t, tasks.Completed, completed.Status, name)
			require.LessOrEqual(t, completed.Usage.Neurons, c.most)

			r.ai.Fault(workersaitest.Fault{DropAnswer: true})
			failed := r.wait(r.enqueue(c.payload, tasks.WithMaxNeurons(c.most)))
			require.Equal(t, tasks.CodeBudgetExceeded, failed.Error.Code, name)
			require.Contains(t, failed.Error.Message, "it needs ")
			require.Equal(t, []int{1, 1}, []int{failed.Usage.Calls, failed.Usage.Unsettled}, name)
			require.Len(t, r.ai.Requests(), 2, name)
		})
	}
}

// What the first parts of a large embedding have cost counts, over all runs, and a task that
// shares calls with others ends alone.
func TestThePaidPartsOfATaskCountAgainstMaxNeurons(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		texts := make([]string, 250)
		for i := range texts {
			texts[i] = strings.Repeat("word ", 30)
		}
		bounded := r.enqueue(tasks.Embedding{Texts: texts}, tasks.WithMaxNeurons(110))
		free := r.enqueue(tasks.Embedding{Texts: texts})
		r.work()
		failed, completed := r.wait(bounded), r.wait(free)
		require.Equal(t, tasks.Completed, completed.Status)
		require.Equal(t, tasks.CodeBudgetExceeded, failed.Error.Code)
		require.Equal(t, 1, failed.Usage.Calls, "a part costs about 23 and at most 93 neurons")
		require.InDelta(t, 23, failed.Usage.Neurons, 1)
	})
}
