package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// refusing is a bucket whose writes fail.
type refusing struct {
	*storage.Memory
	err error
}

func (s refusing) Put(context.Context, string, io.Reader, string) error    { return s.err }
func (s refusing) Create(context.Context, string, io.Reader, string) error { return s.err }

// answerless is a bucket that writes and loses the answer.
type answerless struct{ *storage.Memory }

var errReset = errors.New("connection reset")

func (s answerless) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return errors.Join(s.Memory.Put(ctx, key, body, contentType), errReset)
}

func TestALargeInputWhoseAnswerIsLostLeavesNothing(t *testing.T) {
	store := storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: answerless{store}})
	large := tasks.Text{Prompt: strings.Repeat("word ", 8<<10)}
	_, err := client.Enqueue(t.Context(), large)
	require.ErrorIs(t, err, errReset)
	require.NotErrorIs(t, err, tasks.ErrUnknownOutcome)
	require.Empty(t, keysOf(t, store, ""))

	_, err = client.Enqueue(t.Context(), large, tasks.WithIdempotencyKey("k"))
	require.ErrorIs(t, err, tasks.ErrUnknownOutcome)
	require.Len(t, keysOf(t, store, ""), 1, "it may be the input of another caller's task")
}

func TestABucketThatCertainlyWroteNothingIsNoUnknownOutcome(t *testing.T) {
	certain := fmt.Errorf("put: %w: %w", storage.ErrDenied, storage.ErrNotWritten)
	for name, c := range map[string]struct {
		err     error
		options []tasks.Option
		unknown bool
	}{
		"a certain refusal":     {certain, nil, false},
		"a missing bucket":      {fmt.Errorf("%w: %w", storage.ErrNoBucket, storage.ErrNotWritten), nil, false},
		"a lost answer":         {errors.New("reset"), nil, true},
		"refused after a loss":  {storage.ErrDenied, nil, true},
		"a key of another task": {certain, []tasks.Option{tasks.WithIdempotencyKey("k")}, true}, // that task may run
	} {
		rdb := redistest.Memory(t)
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: refusing{storage.NewMemory(), c.err}})
		_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "a"}, c.options...)
		require.ErrorIs(t, err, c.err, name)
		require.Equal(t, c.unknown, errors.Is(err, tasks.ErrUnknownOutcome), "%s: %v", name, err)
		require.Zero(t, queued(t, rdb), name)
	}
}
