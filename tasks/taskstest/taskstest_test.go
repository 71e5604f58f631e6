package taskstest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/tasks/taskstest"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestWorkRunsAllTasksToTheirEnd(t *testing.T) {
	q := taskstest.New(t)
	var requests []tasks.Request
	for i := range 40 {
		requests = append(requests, tasks.Request{Payload: tasks.Translation{Text: fmt.Sprintf("line %d", i), TargetLang: "es"}})
	}
	requests = append(requests, tasks.Request{Payload: tasks.Image{Prompt: "a mill"}})
	outcomes := q.Client.EnqueueMany(t.Context(), requests)
	later, err := q.Client.Enqueue(t.Context(), tasks.Text{Prompt: "later"}, tasks.WithDelay(time.Hour))
	require.NoError(t, err)

	q.Work(t)

	for _, outcome := range outcomes {
		require.NoError(t, outcome.Err)
		result, err := q.Client.Result(t.Context(), outcome.ID)
		require.NoError(t, err)
		require.Equal(t, tasks.Completed, result.Status)
	}
	require.Len(t, q.Waiting(t), 1)
	require.Equal(t, later.ID, taskstest.RequireEnqueued(t, q, tasks.Text{}).ID)
}

func TestAWorkerRunsBesideCodeThatWaits(t *testing.T) {
	q := taskstest.New(t)
	q.Start(t)
	output, err := tasks.Do(t.Context(), q.Client, tasks.Translation{Text: "Good morning", TargetLang: "es"})
	require.NoError(t, err)
	require.Equal(t, "[es] buenos días", output.TranslatedText)
}

func TestFailuresAndLaterTasksCostNoTimeInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := taskstest.New(t)
		q.Emulator.Fault(workersaitest.Fault{Kind: "text", Status: http.StatusInternalServerError})
		receipt, err := q.Client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
		require.NoError(t, err)
		_, err = q.Client.Enqueue(t.Context(), tasks.Embedding{Texts: []string{"red apples"}}, tasks.WithDelay(time.Hour))
		require.NoError(t, err)

		q.Work(t)
		result, err := q.Client.Result(t.Context(), receipt.ID)
		require.NoError(t, err)
		require.Equal(t, tasks.Failed, result.Status)
		require.Len(t, q.Emulator.Requests(), 5)

		time.Sleep(time.Hour)
		q.Work(t)
		require.Empty(t, q.Waiting(t))
	})
}

// failed records the failure of a test.
type failed struct {
	testing.TB
	message string
}

func (f *failed) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	panic(f)
}

func TestATaskIsFoundByTheFieldsThatAreSet(t *testing.T) {
	q := taskstest.New(t)
	zero := 0.0
	for payload, options := range map[tasks.Payload][]tasks.Option{
		&tasks.Translation{Text: "Good morning", TargetLang: "es"}:                     {tasks.WithLane(tasks.Bulk)},
		&tasks.Text{Prompt: strings.Repeat("long ", 10_000), Temperature: &zero}:       nil,
		&tasks.Text{Messages: []tasks.Message{tasks.UserMessage("Name three rivers")}}: nil,
	} {
		_, err := q.Client.Enqueue(t.Context(), payload, options...)
		require.NoError(t, err)
	}
	require.Equal(t, tasks.Bulk, taskstest.RequireEnqueued(t, q, tasks.Translation{TargetLang: "es"}).Lane)
	taskstest.RequireEnqueued(t, q, &tasks.Text{Temperature: &zero})
	taskstest.RequireEnqueued(t, q, tasks.Text{Messages: []tasks.Message{tasks.UserMessage("Name three rivers")}})

	one, f := 1.0, &failed{TB: t}
	require.PanicsWithValue(t, f, func() { taskstest.RequireEnqueued(f, q, tasks.Text{Temperature: &one}) })
	require.Contains(t, f.message, `no text task like {"temperature":1} is enqueued; there are:`)
	require.Contains(t, f.message, `translation bulk pending {"text":"Good morning","target_lang":"es"}`)
}

func TestTheExample(t *testing.T) { testGreet(t) }
