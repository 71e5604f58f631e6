package workersaitest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

const bge = "@cf/baai/bge-base-en-v1.5"

func ask(ctx context.Context, c *workersai.Client) error {
	_, _, err := c.Embed(ctx, bge, workersai.EmbedInput{Texts: []string{"x"}})
	return err
}

func TestLimitsCountAMinuteEachInItsWay(t *testing.T) {
	for window, later := range map[string]int{"sliding": 0, "fixed": 10, "bucket": 5} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(30 * time.Second) // into the middle of a minute
			client := workersaitest.New(workersaitest.Options{Limits: map[string]int{bge: 10}, Window: window}).Client()
			allowed := func(n int) (ok int) {
				for range n {
					if err := ask(t.Context(), client); err == nil {
						ok++
					} else {
						require.Equal(t, 3021, code(t, err))
					}
				}
				return ok
			}
			require.Equal(t, 10, allowed(15), window)
			time.Sleep(30 * time.Second)
			require.Equal(t, later, allowed(15), window)
			time.Sleep(2 * time.Minute)
			require.Equal(t, 10, allowed(15), window)
		})
	}
}

// faults are the supported failures. Each must look the same in process and over TCP.
func TestFaultsHitTheCallsTheyAreMeantFor(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{})
	server := httptest.NewServer(emulator)
	defer server.Close()
	overTCP := emulator.Client()
	overTCP.BaseURL, overTCP.HTTP = server.URL+"/client/v4", server.Client()
	for name, client := range map[string]*workersai.Client{"in process": emulator.Client(), "over TCP": overTCP} {
		emulator.Reset()
		emulator.Fault(workersaitest.Fault{From: 1, To: 1, Code: 3040})
		emulator.Fault(workersaitest.Fault{From: 1, To: 1, Status: 502, Body: "<html>"})
		emulator.Fault(workersaitest.Fault{From: 1, To: 1, Reset: true})
		emulator.Fault(workersaitest.Fault{From: 1, To: 1, DropAnswer: true})
		emulator.Fault(workersaitest.Fault{From: 1, To: 1, Cut: true, CutAt: 40})
		emulator.Fault(workersaitest.Fault{From: 1, To: 1, Hang: true})
		classes := []workersai.Class{workersai.Busy, workersai.Transient, workersai.Transient, workersai.Transient, workersai.Transient}
		for i, want := range classes {
			var api *workersai.Error
			require.ErrorAs(t, ask(t.Context(), client), &api, "%s %d", name, i)
			require.Equal(t, want, api.Class(), "%s %d: %v", name, i, api)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.ErrorIs(t, ask(ctx, client), context.DeadlineExceeded, name)
		cancel()
		require.NoError(t, ask(t.Context(), client), name)

		billed := 0
		log := emulator.Requests()
		for _, q := range log {
			require.Equal(t, "***", q.Header.Get("Authorization"))
			if q.Billed {
				billed++
			}
		}
		require.Len(t, log, 7, name)
		require.Equal(t, 3, billed, "%s: the dropped, the cut and the good one ran", name)
	}
}

func TestTheLogIsServedToOtherProcesses(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{})
	require.NoError(t, ask(t.Context(), emulator.Client()))
	recorder := httptest.NewRecorder()
	emulator.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/_emulator/requests", nil))
	require.Contains(t, recorder.Body.String(), bge)
	require.Contains(t, recorder.Body.String(), `"Texts":1`)
}
