package tasks_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// queuedTask reads a queued task by its id from Redis.
func queuedTask(t *testing.T, rdb *redis.Client, id string) tasks.Task {
	t.Helper()
	message, err := rdb.HGet(t.Context(), "asynq:{text:interactive}:t:"+id, "msg").Bytes()
	require.NoError(t, err)
	task, _, err := tasks.DecodeMessage(message)
	require.NoError(t, err)
	return task
}

func prompt(t *testing.T, task tasks.Task, s storage.Store) string {
	t.Helper()
	p, err := task.Input(t.Context(), s)
	require.NoError(t, err)
	return p.(tasks.Text).Prompt
}

func keysOf(t *testing.T, s storage.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), prefix, "") {
		require.NoError(t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

// A regression: a second task with the same key overwrote the first task's input.
func TestASecondUseOfAKeyWithAnotherLargePayloadTouchesNothing(t *testing.T) {
	alpha, bravo := strings.Repeat("alpha ", 4000), strings.Repeat("bravo ", 4000)
	for name, durability := range map[string]tasks.Durability{"store": tasks.InStore, "redis": tasks.InRedis} {
		rdb, store := redistest.Memory(t), storage.NewMemory()
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store, Durability: durability})
		first, err := client.Enqueue(t.Context(), tasks.Text{Prompt: alpha}, tasks.WithIdempotencyKey("order 7"))
		require.NoError(t, err, name)
		before := keysOf(t, store, "")
		_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: bravo}, tasks.WithIdempotencyKey("order 7"))
		require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch, name)
		require.NotErrorIs(t, err, tasks.ErrUnknownOutcome, name)
		require.Equal(t, before, keysOf(t, store, ""), name)
		require.Equal(t, alpha, prompt(t, queuedTask(t, rdb, first.ID), store), name)
	}
}

// The bucket is asked when Redis has lost the key.
func TestAKeyIsRefusedToAnotherLargePayloadAlsoAfterTheLossOfRedis(t *testing.T) {
	alpha, bravo := strings.Repeat("alpha ", 4000), strings.Repeat("bravo ", 4000)
	for name, durability := range map[string]tasks.Durability{"store": tasks.InStore, "redis": tasks.InRedis} {
		rdb, store := redistest.Memory(t), storage.NewMemory()
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
		first, err := client.Enqueue(t.Context(), tasks.Text{Prompt: alpha}, tasks.WithIdempotencyKey("order 7"))
		require.NoError(t, err)
		before := keysOf(t, store, "")
		require.NoError(t, rdb.FlushAll(t.Context()).Err())
		for range 2 {
			_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: bravo}, tasks.WithIdempotencyKey("order 7"), tasks.WithDurability(durability))
			require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch, name)
			require.Equal(t, before, keysOf(t, store, ""), name)
		}
		// The refused use leaves no trace in Redis that would refuse the original one.
		again, err := client.Enqueue(t.Context(), tasks.Text{Prompt: alpha}, tasks.WithIdempotencyKey("order 7"), tasks.WithDurability(durability))
		require.NoError(t, err, name)
		require.Equal(t, first.ID, again.ID)
		require.True(t, again.Existing, name)
		require.Equal(t, alpha, prompt(t, queuedTask(t, rdb, first.ID), store), name)
	}
}

func TestAMismatchIsSeenBetweenDurabilitiesAndClients(t *testing.T) {
	type door struct {
		name   string
		client func(redis.UniversalClient, storage.Store) *tasks.Client
	}
	doors := []door{
		{"store", func(r redis.UniversalClient, s storage.Store) *tasks.Client {
			return tasks.NewClient(tasks.Config{Redis: r, Store: s})
		}},
		{"redis", func(r redis.UniversalClient, s storage.Store) *tasks.Client {
			return tasks.NewClient(tasks.Config{Redis: r, Store: s, Durability: tasks.InRedis})
		}},
		{"no store", func(r redis.UniversalClient, _ storage.Store) *tasks.Client {
			return tasks.NewClient(tasks.Config{Redis: r})
		}},
	}
	for _, first := range doors {
		for _, second := range doors {
			name := first.name + ", then " + second.name
			rdb, store := redistest.Memory(t), storage.NewMemory()
			accepted, err := first.client(rdb, store).Enqueue(t.Context(), tasks.Text{Prompt: "pay Alice"}, tasks.WithIdempotencyKey("k"))
			require.NoError(t, err, name)
			require.False(t, accepted.Existing, name)
			_, err = second.client(rdb, store).Enqueue(t.Context(), tasks.Text{Prompt: "pay Bob"}, tasks.WithIdempotencyKey("k"))
			require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch, name)
			again, err := second.client(rdb, store).Enqueue(t.Context(), tasks.Text{Prompt: "pay Alice"}, tasks.WithIdempotencyKey("k"))
			require.NoError(t, err, name)
			require.True(t, again.Existing, name)
			require.Equal(t, accepted.ID, again.ID, name)
			require.EqualValues(t, 1, queued(t, rdb), name)
			require.Equal(t, "pay Alice", prompt(t, queuedTask(t, rdb, accepted.ID), store), name)
		}
	}
}

// A producer of an earlier version left no claim in Redis for tasks with a record.
func TestAMismatchIsSeenWithATaskThatHasNoClaim(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	first, err := tasks.NewClient(tasks.Config{Redis: rdb, Store: store}).Enqueue(t.Context(), tasks.Text{Prompt: "pay Alice"}, tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	other := tasks.NewClient(tasks.Config{Redis: rdb})
	for range 2 {
		require.NoError(t, rdb.Del(t.Context(), taskstate.LiveKey(first.ID)).Err())
		_, err = other.Enqueue(t.Context(), tasks.Text{Prompt: "pay Bob"}, tasks.WithIdempotencyKey("k"))
		require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch)
		again, err := other.Enqueue(t.Context(), tasks.Text{Prompt: "pay Alice"}, tasks.WithIdempotencyKey("k"))
		require.NoError(t, err, "the refused use has left no claim")
		require.True(t, again.Existing)
	}
}

func TestAnInputThatIsNotTheTasksOwnIsNotRun(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	first, err := client.Enqueue(t.Context(), tasks.Text{Prompt: strings.Repeat("alpha ", 4000)})
	require.NoError(t, err)
	task := queuedTask(t, rdb, first.ID)
	for name, document := range map[string]string{
		"another payload": `{"prompt":"` + strings.Repeat("bravo ", 4000) + `"}`,
		"half a document": `{"prompt":"`,
		"nothing":         "",
	} {
		require.NoError(t, store.Put(t.Context(), task.InputKey, strings.NewReader(document), "application/json"))
		_, err = task.Input(t.Context(), store)
		var failure *tasks.TaskError
		require.ErrorAs(t, err, &failure, name)
		require.Equal(t, tasks.CodeInputDamaged, failure.Code, name)
	}
	require.NoError(t, store.Delete(t.Context(), task.InputKey))
	_, err = task.Input(t.Context(), store)
	require.ErrorContains(t, err, "input_not_found")
}

// hiccup is a bucket whose reads fail.
type hiccup struct {
	storage.Store
	on atomic.Bool
}

func (s *hiccup) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if s.on.Load() {
		return nil, errors.New("503 slow down")
	}
	return s.Store.Get(ctx, key)
}

// The task runs for any outcome of the repeated request.
func TestAKeyedRepeatThatFailsNeverSaysThatTheTaskDoesNotRun(t *testing.T) {
	for name, durability := range map[string]tasks.Durability{"store": tasks.InStore, "redis": tasks.InRedis} {
		rdb, store := redistest.Memory(t), &hiccup{Store: storage.NewMemory()}
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store, Durability: durability})
		repeat := func() error {
			_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
			return err
		}
		require.NoError(t, repeat(), name)
		store.on.Store(true)
		require.ErrorIs(t, repeat(), tasks.ErrUnknownOutcome, name)
		store.on.Store(false)
		rdb.AddHook(readOnly{})
		require.ErrorIs(t, repeat(), tasks.ErrUnknownOutcome, name)
	}
}

// The first try was executed, but its answer was lost with the connection. The client's
// own second try met a restarted Redis.
func TestAResetFollowedByALoadingRedisIsAnUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link, server, store := &redistest.Link{}, redistest.New(t), storage.NewMemory()
		rdb := server.Client(link)
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
		_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "so that Redis knows the scripts"})
		require.NoError(t, err)
		tries := 0
		link.Lose(func(request []byte) redistest.Fate {
			if !strings.Contains(string(request), "text:interactive}:t:") {
				return redistest.Delivered
			}
			if tries++; tries == 1 {
				return redistest.ReplyLost
			}
			server.Refuse("LOADING Redis is loading the dataset in memory")
			return redistest.Delivered
		})
		_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
		require.ErrorContains(t, err, "LOADING")
		require.ErrorIs(t, err, tasks.ErrUnknownOutcome)
		link.Lose(nil)
		server.Refuse("")
		require.Equal(t, 2, records(t, store), "it runs, and must come back should Redis lose it")
	})
}

func TestKeysOfPeopleSchedulesAndRetriesDoNotMeet(t *testing.T) {
	rdb, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	slot := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	scheduled, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "nightly"}, tasks.WithScheduleSlot("report", slot))
	require.NoError(t, err)
	person, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "other"}, tasks.WithIdempotencyKey("schedule/report/2026-01-02T03:00:00Z"))
	require.NoError(t, err, "a person's key is not a schedule's")
	require.NotEqual(t, scheduled.ID, person.ID)
	again, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "nightly"}, tasks.WithScheduleSlot("report", slot))
	require.NoError(t, err)
	require.Equal(t, scheduled.ID, again.ID)
	require.True(t, again.Existing)

	failed := failedTask(t, rdb, store, client)
	guessed, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "other"}, tasks.WithIdempotencyKey("retry of "+failed))
	require.NoError(t, err)
	retried, err := client.Retry(t.Context(), failed)
	require.NoError(t, err)
	require.NotEqual(t, guessed.ID, retried.ID)
}

// Ids given out before keys had separate name spaces stay unchanged.
func TestKeysGiveTheIDsTheyAlwaysGave(t *testing.T) {
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t)})
	id := func(o tasks.Option) string {
		accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, o)
		require.NoError(t, err)
		return accepted.ID
	}
	require.Equal(t, "t_6n3eos5vblwsgaz2gsm3ix7kxi", id(tasks.WithIdempotencyKey("order 7")))
	require.Equal(t, "t_6uqiozndbianpijc6rcj4fpky2", id(tasks.WithScheduleSlot("report", time.Date(2026, 1, 2, 4, 0, 0, 0, time.FixedZone("", 3600)))))
}

// failedTask leaves a failed task in the bucket, as a worker does.
func failedTask(t *testing.T, rdb *redis.Client, store storage.Store, client *tasks.Client) string {
	t.Helper()
	accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "doomed"})
	require.NoError(t, err)
	task := queuedTask(t, rdb, accepted.ID)
	r := tasks.Result{ID: task.ID, Kind: task.Kind, Status: tasks.Failed, Model: task.Model, Error: &tasks.TaskError{Code: tasks.CodeAttemptsExhausted, Message: "no"}, Digest: task.Digest}
	put := func(key string, v any) {
		document, err := json.Marshal(v)
		require.NoError(t, err)
		require.NoError(t, store.Put(t.Context(), key, strings.NewReader(string(document)), "application/json"))
	}
	put(objects.ResultKey("default", task.ID), r)
	put(objects.FailedTaskKey("default", task.ID), task)
	put(objects.DeadKey("default", task.ID), tasks.DeadLetterOf(r))
	require.NoError(t, store.Delete(t.Context(), objects.PendingKey("default", task.ID)))
	return task.ID
}

// The record of a running task holds its counters and its owner. A regression: a caller
// with a shorter deadline let the record expire while the task ran.
func TestALaterCallerDoesNotShortenTheLifeOfARunningTasksRecord(t *testing.T) {
	rdb := redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	first, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	life := rdb.TTL(t.Context(), taskstate.LiveKey(first.ID)).Val()
	require.Greater(t, life, 70*time.Hour)
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"), tasks.WithTimeToLive(time.Minute))
	require.NoError(t, err)
	require.InDelta(t, life, rdb.TTL(t.Context(), taskstate.LiveKey(first.ID)).Val(), float64(time.Minute))
	require.NoError(t, client.Cancel(t.Context(), first.ID))
	require.InDelta(t, life, rdb.TTL(t.Context(), taskstate.LiveKey(first.ID)).Val(), float64(time.Minute))

	// The record of an ended task is not extended.
	require.NoError(t, rdb.HSet(t.Context(), taskstate.LiveKey(first.ID), "ended", 1).Err())
	require.NoError(t, rdb.Expire(t.Context(), taskstate.LiveKey(first.ID), time.Minute).Err())
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	require.LessOrEqual(t, rdb.TTL(t.Context(), taskstate.LiveKey(first.ID)).Val(), time.Minute)
}
