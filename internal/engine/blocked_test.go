package engine_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// forbidden answers requests with one text as a firewall does.
func forbidden(text string) workersaitest.Fault {
	return workersaitest.Fault{
		Contains: text, Status: http.StatusForbidden, Header: http.Header{"Content-Type": {"text/html"}},
		Body: "<html><title>Attention Required! | Cloudflare</title>Sorry, you have been blocked</html>",
	}
}

// A payload that the edge refuses with an HTML page fails alone. The refusal concerns the
// request, not the account, so it closes no gate.
func TestAPayloadThatTheEdgeBlocksStopsNoOtherTask(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.ai.Fault(forbidden("DROP TABLE"))
		r.work()
		bad := r.enqueue(tasks.Text{Prompt: "'; DROP TABLE users; --"})
		var good []string
		for i := range 60 {
			good = append(good, r.enqueue(tasks.Text{Prompt: fmt.Sprint("good ", i)}))
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Second)
		require.Equal(t, len(good), r.ended(good))
		for _, id := range good {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		result := r.wait(bad)
		require.Equal(t, tasks.CodeRequestBlocked, result.Error.Code)
		require.Equal(t, 2, result.Usage.Calls)
		states, err := r.cfg.Gate.States(t.Context(), texter)
		require.NoError(t, err)
		require.Equal(t, "open", states[0].Word())
	})
}

func TestATextThatTheEdgeBlocksIsFoundInItsGroup(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds, r.cfg.Concurrency = []tasks.Kind{tasks.KindEmbedding}, 8
		r.ai.Fault(forbidden("DROP TABLE"))
		var ids []string
		for i := range 60 {
			text := fmt.Sprint("good ", i)
			if i == 17 {
				text = "DROP TABLE"
			}
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{text}}))
		}
		r.work()
		for i, id := range ids {
			result := r.wait(id)
			if i == 17 {
				require.Equal(t, tasks.CodeRequestBlocked, result.Error.Code)
				require.LessOrEqual(t, result.Usage.Calls, 6, "found in at most three calls, twice")
				continue
			}
			require.Equal(t, tasks.Completed, result.Status)
			require.LessOrEqual(t, result.Usage.Calls, 3)
			require.Equal(t, 1, result.Attempts)
		}
		states, err := r.cfg.Gate.States(t.Context(), embedder)
		require.NoError(t, err)
		require.Equal(t, "open", states[0].Word())
	})
}
