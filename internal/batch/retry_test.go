package batch_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// A patch changes the input of the failed lines, and nothing else: lines that had completed
// are not called again, and the outputs of patched lines are reused for lines of that input
// only.
func TestARetryMayPatchTheInputOfTheFailedLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		r.ai.Fault(workersaitest.Fault{Contains: "odd", Code: 5006})
		var text, patched strings.Builder
		for i := range 10 {
			word := []string{"even", "odd"}[i%2]
			fmt.Fprintf(&text, `{"id":"%d","kind":"text","input":{"prompt":"%s %d","temperature":1}}`+"\n", i, word, i)
			fmt.Fprintf(&patched, `{"id":"%d","kind":"text","input":{"prompt":"%s %d","max_tokens":77}}`+"\n", i, word, i)
		}
		id := r.accept(text.String(), batch.AcceptOptions{})
		require.Equal(t, 5, r.drive(id).Failed)
		groups, err := r.batches.FailuresOf(t.Context(), id)
		require.NoError(t, err)
		require.Len(t, groups, 1, "the ids of requests in messages do not part them")
		require.Equal(t, []string{"1", "3", "5", "7", "9"}, groups[0].IDs)
		require.Equal(t, tasks.CodeRequestRefused, groups[0].Code)
		require.Contains(t, groups[0].Do, "Correct the payload")

		r.ai.Heal()
		for _, bad := range []string{"", "[]", "null", `{"a"`, `"text"`, `{"prompt":"` + strings.Repeat("a", 70<<10) + `"}`} {
			_, err := r.batches.Retry(t.Context(), id, batch.RetryOptions{Patch: []byte(bad)})
			require.ErrorIs(t, err, batch.ErrPatch)
		}
		calls := len(r.ai.Requests())
		_, err = r.batches.Retry(t.Context(), id, batch.RetryOptions{Patch: []byte(`{"max_tokens": 77, "temperature": null}`)})
		require.NoError(t, err)
		require.Equal(t, 10, r.drive(id).Completed)
		require.Len(t, r.ai.Requests(), calls+5)
		for _, q := range r.ai.Requests()[calls:] {
			var body map[string]any
			require.NoError(t, json.Unmarshal(q.Body, &body))
			require.Contains(t, string(q.Body), "odd")
			require.Contains(t, body, "max_tokens")
			require.EqualValues(t, 77, body["max_tokens"])
			require.NotContains(t, body, "temperature")
		}
		require.Empty(t, r.keys("default/tasks/"))

		again := r.accept(text.String(), batch.AcceptOptions{Reuse: aMonth})
		require.Equal(t, 10, r.drive(again).Completed)
		require.Len(t, r.ai.Requests(), calls+5+5, "only the even lines have an output of their own input")
		same := r.accept(patched.String(), batch.AcceptOptions{Reuse: aMonth})
		require.Equal(t, 10, r.drive(same).Completed)
		require.Len(t, r.ai.Requests(), calls+5+5+5, "the odd lines ran with this input before")
	})
}

func TestAPatchThatMakesALineInvalidFailsItWithoutACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		r.ai.Fault(workersaitest.Fault{Contains: "one", Code: 5006})
		id := r.accept(`{"id":"a","kind":"text","input":{"prompt":"one"}}`, batch.AcceptOptions{})
		require.Equal(t, 1, r.drive(id).Failed)
		calls := len(r.ai.Requests())
		_, err := r.batches.Retry(t.Context(), id, batch.RetryOptions{Patch: []byte(`{"max_token": 77}`)})
		require.NoError(t, err)
		require.Equal(t, 1, r.drive(id).Failed)
		require.Len(t, r.ai.Requests(), calls)
		line := r.output(id)[0]
		require.Equal(t, tasks.CodePayloadInvalid, line.Error.Code)
		require.Contains(t, line.Error.Message, "did you mean max_tokens?")
	})
}
