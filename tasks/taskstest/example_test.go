package taskstest_test

import (
	"context"
	"testing"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/tasks/taskstest"
	"github.com/stretchr/testify/require"
)

// greet is the code under test.
func greet(ctx context.Context, client *tasks.Client, name string) error {
	_, err := client.Enqueue(ctx, tasks.Translation{Text: "Good morning, " + name, TargetLang: "es"},
		tasks.WithIdempotencyKey("greeting/"+name))
	return err
}

// testGreet is the body of its test.
func testGreet(t *testing.T) {
	q := taskstest.New(t)
	require.NoError(t, greet(t.Context(), q.Client, "Ada"))
	require.NoError(t, greet(t.Context(), q.Client, "Ada"))
	task := taskstest.RequireEnqueued(t, q, tasks.Translation{TargetLang: "es"})

	q.Work(t)

	result, err := q.Client.Result(t.Context(), task.ID)
	require.NoError(t, err)
	require.Equal(t, tasks.Completed, result.Status)
	require.Len(t, q.Emulator.Requests(), 1, "both greetings are one task")
}

// A test requires the tasks that the code under test has enqueued, and runs them.
func Example() {
	_ = testGreet // go test calls it
}
