package batch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// repeating returns n lines with so many different texts.
func repeating(n, different int) string {
	var b strings.Builder
	for i := range n {
		format := `{"id": "row-%d", "kind": "embedding", "input": {"texts": ["text %d"]}}` + "\n"
		if i%2 == 1 {
			format = `{"input":{"texts":["text %[2]d"]},"kind":"embedding","model":"@cf/baai/bge-base-en-v1.5","id":"row-%[1]d"}` + "\n"
		}
		fmt.Fprintf(&b, format, i, i%different)
	}
	return b.String()
}

// cached returns how many lines of the output cost nothing, after checking that they say so.
func (r *rig) cached(id string) (n int) {
	r.t.Helper()
	var body bytes.Buffer
	_, err := r.batches.WriteOutput(r.t.Context(), id, &body)
	require.NoError(r.t, err)
	for text := range strings.Lines(body.String()) {
		var l struct {
			Status string
			Usage  struct {
				Neurons float64
				Cached  bool
			}
		}
		require.NoError(r.t, json.Unmarshal([]byte(text), &l))
		if l.Usage.Cached {
			n++
			require.Zero(r.t, l.Usage.Neurons)
		} else if l.Status == "completed" {
			require.Positive(r.t, l.Usage.Neurons)
		}
	}
	return n
}

// TestEqualLinesOfABatchAreCalledOnce: the first of them may be in the same segment or in
// another one, and the driver dies twice.
func TestEqualLinesOfABatchAreCalledOnce(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		const lines, different = 5_000, 1_700
		id := r.accept(repeating(lines, different), batch.AcceptOptions{})
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
			_, err := r.batches.Drive(ctx, id, batch.DriveOptions{})
			require.Error(t, err)
			cancel()
		}
		end := r.drive(id)
		require.Equal(t, batch.Counts{Completed: lines, Cached: lines - different, Neurons: end.Neurons}, end.Counts)
		require.Equal(t, lines-different, r.cached(id))
		paid := r.paid()
		require.Len(t, paid, different)
		output := r.output(id)
		require.Len(t, output, lines)
		for i, l := range output {
			require.Equal(t, fmt.Sprintf("row-%d", i), l.ID)
			require.Equal(t, output[i%different].Output, l.Output)
			require.Equal(t, 1, paid[fmt.Sprintf("text %d", i%different)])
		}
		d, err := r.batches.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, lines-different, d.Repeated)
		require.Equal(t, different/100, d.Demands[0].Calls, "the price leaves out what is not called")
		require.Empty(t, r.keys("default/tasks/"))
	})
}

// TestALineThatRepeatsAFailedOneFailsToo: and a retry calls both with one call.
func TestALineThatRepeatsAFailedOneFailsToo(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		r.ai.Fault(workersaitest.Fault{Contains: `"text 7"`, Code: 5006})
		id := r.accept(repeating(2_400, 600), batch.AcceptOptions{})
		end := r.drive(id)
		require.Equal(t, []int{2_396, 4}, []int{end.Completed, end.Failed})
		for i, l := range r.output(id) {
			require.Equal(t, i%600 == 7, l.Status == "failed", l.ID)
		}
		r.ai.Heal()
		_, err := r.batches.Retry(t.Context(), id, batch.RetryOptions{})
		require.NoError(t, err)
		end = r.drive(id)
		require.Equal(t, []int{2_400, 0, 1_800}, []int{end.Completed, end.Failed, end.Cached})
		require.Equal(t, 1, r.paid()["text 7"])
		require.Equal(t, r.output(id)[7].Output, r.output(id)[2_407-600].Output)
	})
}

// TestEachLineIsCalledWhereThatIsWanted: for pictures and texts that are to differ.
func TestEachLineIsCalledWhereThatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.work()()
		text := ""
		for i := range 3 {
			text += fmt.Sprintf(`{"id":"%d","kind":"text","input":{"prompt":"a name for a mill"}}`+"\n", i)
		}
		src := source(text, batch.Native)
		for i, calls := range []int{1, 3} {
			src.CallEach = i == 1
			before := len(r.ai.Requests())
			id := batch.NewID()
			_, err := r.batches.Accept(t.Context(), id, src, batch.AcceptOptions{})
			require.NoError(t, err)
			require.Equal(t, 3, r.drive(id).Completed)
			require.Len(t, r.ai.Requests(), before+calls)
		}
	})
}

// TestOnlyEqualLinesShareACall: the model and each parameter count.
func TestOnlyEqualLinesShareACall(t *testing.T) {
	inputs := []string{
		`"kind":"text","input":{"prompt":"x"}`,
		`"kind":"text","input":{"prompt":"x","max_tokens":9}`,
		`"kind":"text","input":{"prompt":"x","seed":9}`,
		`"kind":"text","model":"@cf/meta/llama-3.2-1b-instruct","input":{"prompt":"x"}`,
		`"kind":"embedding","input":{"texts":["x"]}`,
		`"kind":"embedding","input":{"texts":["x","x"]}`,
		`"kind":"embedding","input":{"texts":["xx"]}`,
		`"kind":"embedding","input":{"texts":["x"],"pooling":"cls"}`,
		`"kind":"embedding","input":{"texts":["cls","x"]}`,
		`"kind":"translation","input":{"text":"x","target_lang":"es"}`,
	}
	text := ""
	for i, input := range inputs {
		text += fmt.Sprintf(`{"id":"%d",%s}`+"\n", i, input)
	}
	require.Zero(t, scan(t, text, batch.Native).Repeated)
	text += `{"id":"again", "input": {"max_tokens": 9, "prompt": "x"}, "kind": "text"}` + "\n"
	text += `{"id":"default", "input": {"texts": ["x"]}, "kind": "embedding", "model": "@cf/baai/bge-base-en-v1.5"}` + "\n"
	require.Equal(t, 2, scan(t, text, batch.Native).Repeated)
	require.Equal(t, tasks.KindText, scan(t, text, batch.Native).Demands[0].Kind)
}
