package app_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// waitingOf opens a stack on an in-memory Redis. It also returns a func that describes
// why a task waits.
func waitingOf(t *testing.T) (*app.Stack, func(id string) string) {
	r := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { r.Close() })
	store := storage.NewMemory()
	stack := &app.Stack{Redis: &app.Redis{UniversalClient: r}, Store: store, Client: tasks.NewClient(tasks.Config{Redis: r, Store: store})}
	return stack, func(id string) string {
		info, err := stack.Client.Get(t.Context(), id)
		require.NoError(t, err)
		waiting, err := stack.Monitor().WaitingOn(t.Context(), stack.Gate(app.Settings{}, 0, silent), info)
		require.NoError(t, err)
		return waiting.String()
	}
}

func enqueued(t *testing.T, stack *app.Stack, options ...tasks.Option) string {
	accepted, err := stack.Client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, options...)
	require.NoError(t, err)
	return accepted.ID
}

// serve runs a queue server as a worker does, with the test's own handler.
func serve(t *testing.T, stack *app.Stack, handler asynq.HandlerFunc) {
	server := asynq.NewServerFromRedisClient(stack.Redis.UniversalClient, asynq.Config{
		Concurrency: 1, Queues: map[string]int{"text:interactive": 1}, TaskCheckInterval: 10 * time.Millisecond, LogLevel: asynq.FatalLevel,
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return time.Hour }, ShutdownTimeout: time.Millisecond,
	})
	require.NoError(t, server.Start(handler))
	t.Cleanup(server.Shutdown)
}

func TestWhatATaskWaitsForIsSaid(t *testing.T) {
	stack, waiting := waitingOf(t)
	gates := stack.Gate(app.Settings{}, 0, silent)
	id := enqueued(t, stack)
	const none = "no worker runs; start one: neuronmill worker"
	require.Equal(t, none, waiting(id), "a gate that nobody has used yet is no reason")
	model := "@cf/zai-org/glm-4.7-flash"
	require.NoError(t, gates.Set(t.Context(), model, 0))
	require.Equal(t, "its pace is set to 0; "+none, waiting(id))
	require.NoError(t, gates.Reset(t.Context(), model))
	require.NoError(t, stack.Redis.HSet(t.Context(), gate.Key(model), "pace", 300, "source", "catalogue", "hold", 1, "why", "the account is refused").Err())
	require.Equal(t, "the account is refused: see neuronmill doctor; then neuronmill gate open "+model+"; "+none, waiting(id))
	require.NoError(t, gates.Open(t.Context(), model))
	later := enqueued(t, stack, tasks.WithDelay(time.Hour))
	require.Contains(t, waiting(later), "its start at ")
	require.NoError(t, stack.Client.Cancel(t.Context(), later))
	require.Equal(t, "a worker to end it, since it is cancelled; "+none, waiting(later))
}

func TestATaskThatComesAgainSaysWhyAndOneWithAWorkerThatItIsCalled(t *testing.T) {
	stack, waiting := waitingOf(t)
	failing, calling := enqueued(t, stack), ""
	taken := make(chan struct{}, 2)
	serve(t, stack, func(ctx context.Context, task *asynq.Task) error {
		taken <- struct{}{}
		if id, _ := asynq.GetTaskID(ctx); id == failing {
			return errors.New("workers ai 401/10000: Authentication error")
		}
		<-ctx.Done()
		return ctx.Err()
	})
	<-taken
	calling = enqueued(t, stack)
	<-taken
	require.Regexp(t, `^workers ai 401/10000: Authentication error; next try in (1h0m0s|59m5\ds)$`, waiting(failing))
	require.Equal(t, "a free worker", waiting(calling), "a new task has no owner before its first call")
	require.NoError(t, stack.Redis.HSet(t.Context(), taskstate.LiveKey(calling), "holder", "a worker").Err())
	require.Equal(t, "a call under way", waiting(calling))
	busy, behind := enqueued(t, stack), enqueued(t, stack)
	require.Equal(t, "a free worker: all 1 slots for interactive text tasks are busy", waiting(busy))
	require.Equal(t, "a free worker: all 1 slots for interactive text tasks are busy, behind one other", waiting(behind))
	bulk := enqueued(t, stack, tasks.WithLane(tasks.Bulk))
	require.Equal(t, "no worker takes text tasks; start one: neuronmill worker --kinds text", waiting(bulk))

	workers, err := stack.Monitor().Workers(t.Context())
	require.NoError(t, err)
	require.Len(t, workers, 1)
	require.Equal(t, []tasks.Kind{tasks.KindText}, workers[0].Kinds())
	require.Equal(t, "running", workers[0].Status)
}

// oldRedis is a server that reports an old version.
type oldRedis struct{}

func (oldRedis) DialHook(next redis.DialHook) redis.DialHook { return next }

func (oldRedis) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (oldRedis) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if info, ok := cmd.(*redis.InfoCmd); ok {
			info.SetVal(map[string]map[string]string{"Server": {"redis_version": "5.0.14"}})
			return nil
		}
		return next(ctx, cmd)
	}
}

func TestARedisThatIsTooOldIsRefused(t *testing.T) {
	r := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer r.Close()
	require.NoError(t, app.CheckRedis(t.Context(), r, silent))
	r.AddHook(oldRedis{})
	require.EqualError(t, app.CheckRedis(t.Context(), r, silent), "its version is 5.0.14; 6.2 or newer is needed")
}
