package tasks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestAQueuedTaskIsWhatAsynqsOwnClientWouldWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := redistest.Memory(t), redistest.Memory(t)
		client := tasks.NewClient(tasks.Config{Redis: ours})
		for name, options := range map[string][]tasks.Option{
			"now": nil, "bulk": {tasks.WithLane(tasks.Bulk)}, "later": {tasks.WithDelay(time.Hour)},
		} {
			accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, options...)
			require.NoError(t, err, name)
			queue := tasks.Queue(accepted.Kind, accepted.Lane)
			key := "asynq:{" + queue + "}:t:" + accepted.ID
			queued, err := asynq.NewInspectorFromRedisClient(ours).GetTaskInfo(queue, accepted.ID)
			require.NoError(t, err)
			task, err := tasks.Decode(queued.Payload)
			require.NoError(t, err)
			_, err = asynq.NewClientFromRedisClient(theirs).Enqueue(asynq.NewTask("text", queued.Payload),
				asynq.TaskID(accepted.ID), asynq.Queue(queue), asynq.MaxRetry(1<<20), asynq.Timeout(24*time.Hour), processAt(task))
			require.NoError(t, err)
			hash := ours.HGetAll(t.Context(), key).Val()
			require.Equal(t, fmt.Sprintf("%d %d %s", task.CreatedAt.UnixMicro(), task.Deadline.Unix(), task.Model), hash["turn"], "our own field")
			delete(hash, "turn")
			require.Equal(t, theirs.HGetAll(t.Context(), key).Val(), hash, name)
			for _, list := range []string{"pending", "scheduled"} {
				require.Equal(t, dump(t, theirs, "asynq:{"+queue+"}:"+list), dump(t, ours, "asynq:{"+queue+"}:"+list), name)
			}
		}
		require.Equal(t, theirs.SMembers(t.Context(), "asynq:queues").Val(), ours.SMembers(t.Context(), "asynq:queues").Val())
	})
}

func processAt(t tasks.Task) asynq.Option {
	if t.StartAt.IsZero() {
		return asynq.ProcessIn(0)
	}
	return asynq.ProcessAt(t.StartAt)
}

func dump(t *testing.T, c *redis.Client, key string) any {
	if c.Type(t.Context(), key).Val() == "zset" {
		return c.ZRangeWithScores(t.Context(), key, 0, -1).Val()
	}
	return c.LRange(t.Context(), key, 0, -1).Val()
}

func TestAnAcceptedTaskIsRecordedInTheBucket(t *testing.T) {
	store := storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: store})
	accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: strings.Repeat("long ", 10_000)}, tasks.WithMetadata(map[string]string{"a": "b"}))
	require.NoError(t, err)
	require.Equal(t, tasks.InStore, accepted.Durability)
	body, err := store.Get(t.Context(), objects.PendingKey("default", accepted.ID))
	require.NoError(t, err)
	var task tasks.Task
	require.NoError(t, json.NewDecoder(body).Decode(&task))
	require.Empty(t, task.Payload, "too large for Redis")
	p, err := task.Input(t.Context(), store)
	require.NoError(t, err)
	require.Len(t, p.(tasks.Text).Prompt, 50_000)
	require.Equal(t, map[string]string{"a": "b"}, task.Metadata)
}

func TestFiftyCallersWithOneKeyMakeOneTask(t *testing.T) {
	for name, store := range map[string]storage.Store{"with a store": storage.NewMemory(), "without": nil} {
		rdb := redistest.Memory(t)
		client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
		var wg sync.WaitGroup
		ids := make([]string, 50)
		for i := range ids {
			wg.Go(func() {
				a, err := client.Enqueue(context.Background(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("order 7"))
				if err == nil {
					ids[i] = a.ID
				}
			})
		}
		wg.Wait()
		for _, id := range ids {
			require.NotEmpty(t, id, name)
			require.Equal(t, ids[0], id, name)
		}
		require.EqualValues(t, 1, rdb.LLen(t.Context(), "asynq:{text:interactive}:pending").Val(), name)
		_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "other"}, tasks.WithIdempotencyKey("order 7"))
		require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch, name)
	}
}

// A regression: a producer was told that its task was accepted, and found the result of
// another payload. The first task with the key had ended between the check for its result
// and the write of the record.
func TestAKeyWhoseTaskEndsMeanwhileStaysThatTasks(t *testing.T) {
	store := &endsMeanwhile{Store: storage.NewMemory()}
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: store})
	first, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("order 7"))
	require.NoError(t, err)
	store.ends = func() {
		document := readAll(t, store, objects.PendingKey("default", first.ID))
		var task tasks.Task
		require.NoError(t, json.Unmarshal(document, &task))
		result, err := json.Marshal(tasks.Result{ID: first.ID, Status: tasks.Completed, Digest: task.Digest})
		require.NoError(t, err)
		require.NoError(t, store.Put(t.Context(), objects.ResultKey("default", first.ID), bytes.NewReader(result), "application/json"))
		require.NoError(t, store.Delete(t.Context(), objects.PendingKey("default", first.ID)))
	}
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "other"}, tasks.WithIdempotencyKey("order 7"))
	require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch)
	again, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("order 7"))
	require.NoError(t, err)
	require.True(t, again.Existing)
	_, err = store.Head(t.Context(), objects.PendingKey("default", first.ID))
	require.ErrorIs(t, err, storage.ErrNotFound, "nothing is pending")
}

// endsMeanwhile is a store that runs a func just before a record is created or read.
type endsMeanwhile struct {
	storage.Store
	ends func()
}

func (s *endsMeanwhile) happen() {
	if s.ends != nil {
		ends := s.ends
		s.ends = nil
		ends()
	}
}

func (s *endsMeanwhile) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	s.happen()
	return s.Store.Create(ctx, key, body, contentType)
}

func (s *endsMeanwhile) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if strings.Contains(key, "/pending/") {
		s.happen()
	}
	return s.Store.Get(ctx, key)
}

func TestATaskThatEndsBetweenTwoLooksIsFound(t *testing.T) {
	store := storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: &endsMeanwhile{store, func() {
		result := strings.NewReader(`{"id":"t_x","status":"completed"}`)
		require.NoError(t, store.Put(t.Context(), objects.ResultKey("default", "t_x"), result, "application/json"))
	}}})
	info, err := client.Get(t.Context(), "t_x")
	require.NoError(t, err)
	require.Equal(t, "completed", info.State)
}

func readAll(t *testing.T, s storage.Store, key string) []byte {
	t.Helper()
	body, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	defer body.Close()
	all, err := io.ReadAll(body)
	require.NoError(t, err)
	return all
}

func TestARefusedTaskNeverRuns(t *testing.T) {
	store, rdb := storage.NewMemory(), redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
	rdb.AddHook(readOnly{})
	_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
	require.Error(t, err)
	require.NotErrorIs(t, err, tasks.ErrUnknownOutcome)
	for info, err := range store.List(t.Context(), "default/pending/", "") {
		require.NoError(t, err)
		t.Fatalf("%s is left", info.Key)
	}
}

// readOnly is a Redis that refuses every pipeline, as a replica does.
type readOnly struct{}

func (readOnly) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (readOnly) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (readOnly) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		for _, c := range cmds {
			c.SetErr(saysNo("READONLY You can't write against a read only replica."))
		}
		return saysNo("READONLY")
	}
}

type saysNo string

func (e saysNo) Error() string { return string(e) }
func (saysNo) RedisError()     {}

func TestCancelAndListAndGet(t *testing.T) {
	store := storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: store})
	accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithDelay(time.Hour))
	require.NoError(t, err)
	info, err := client.Get(t.Context(), accepted.ID)
	require.NoError(t, err)
	require.Equal(t, "scheduled", info.State)
	require.False(t, info.NextRun.IsZero())
	list, err := client.List(t.Context(), tasks.ListFilter{Kind: tasks.KindText})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.NoError(t, client.Cancel(t.Context(), accepted.ID))
	var record tasks.Task
	body, err := store.Get(t.Context(), objects.PendingKey("default", accepted.ID))
	require.NoError(t, err)
	require.NoError(t, json.NewDecoder(body).Decode(&record))
	require.True(t, record.Cancelled, "the wish outlives Redis")
	_, err = client.Get(t.Context(), "t_unknown")
	require.ErrorIs(t, err, tasks.ErrNotFound)
}

var update = flag.Bool("update", false, "write the golden files anew")

// The wire form outlives releases: tasks wait in Redis and in the bucket.
func TestPayloadsKeepTheirWireForm(t *testing.T) {
	yes, seed, steps, temperature := true, int64(7), 4, 0.5
	payloads := []tasks.Payload{
		tasks.Transcription{Audio: tasks.Audio{Key: "default/files/f/call.mp3"}, Language: "de", Task: "translate", InitialPrompt: "names", VADFilter: &yes},
		tasks.Image{Prompt: "a mill", NegativePrompt: "people", Width: 512, Height: 768, Steps: &steps, Guidance: &temperature, Seed: &seed},
		tasks.Translation{Text: "hello", SourceLang: "en", TargetLang: "es"},
		tasks.Embedding{Texts: []string{"a", "b"}, Pooling: "cls"},
		tasks.Text{Prompt: "hi", Temperature: &temperature, Seed: &seed, Tools: []tasks.Tool{{Type: "function", Function: &tasks.Function{Name: "f", Parameters: []byte(`{"type":"object"}`)}}},
			ResponseFormat: &tasks.Format{Type: "json_schema", JSONSchema: []byte(`{"type":"object"}`)}},
	}
	require.Len(t, payloads, len(tasks.Specs), "every kind has a golden payload")
	for _, p := range payloads {
		got, err := json.MarshalIndent(p, "", "  ")
		require.NoError(t, err)
		file := filepath.Join("testdata", "golden", string(p.Kind())+".json")
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
			require.NoError(t, os.WriteFile(file, append(got, '\n'), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got)+"\n")
		back, err := tasks.Parse(p.Kind(), want)
		require.NoError(t, err)
		require.Equal(t, canonical(t, p), canonical(t, back))
	}
}

func canonical(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// counted counts the requests to a bucket.
type counted struct {
	storage.Store
	gets int
}

func (c *counted) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	c.gets++
	return c.Store.Get(ctx, key)
}

func TestWaitingForAnHourCostsFewRequestsToTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := &counted{Store: storage.NewMemory()}
		client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: bucket})
		accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := client.Wait(t.Context(), accepted.ID)
			done <- err
		}()
		time.Sleep(time.Hour)
		document := `{"id":"` + accepted.ID + `","status":"completed"}`
		require.NoError(t, bucket.Create(t.Context(), objects.ResultKey("default", accepted.ID), strings.NewReader(document), ""))
		require.NoError(t, <-done)
		require.Less(t, bucket.gets, 300)
	})
}

// A Wait without a time limit ends for a task that can never end.
func TestAWaitForWhatNeverComesEnds(t *testing.T) {
	for name, store := range map[string]storage.Store{"with a store": storage.NewMemory(), "without": nil} {
		synctest.Test(t, func(t *testing.T) {
			rdb := redistest.Memory(t)
			client := tasks.NewClient(tasks.Config{Redis: rdb, Store: store})
			begun := time.Now()
			wait := func(id string) error {
				begun = time.Now()
				_, err := client.Wait(t.Context(), id)
				return err
			}
			require.ErrorIs(t, wait("t_unknown"), tasks.ErrNotFound, name)
			require.Less(t, time.Since(begun), time.Minute, name)

			accepted, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(time.Hour))
			require.NoError(t, err)
			require.ErrorIs(t, wait(accepted.ID), tasks.ErrOverdue, name)
			require.Greater(t, time.Since(begun), time.Hour)
			require.Less(t, time.Since(begun), 90*time.Minute)

			// Redis lost it; only its pending record can bring it back.
			require.NoError(t, rdb.FlushAll(t.Context()).Err())
			want := tasks.ErrNotFound
			if store != nil {
				want = tasks.ErrOverdue
			}
			require.ErrorIs(t, wait(accepted.ID), want, name)

			// A worker that still runs it will report so.
			require.NoError(t, rdb.HSet(t.Context(), taskstate.LiveKey("t_run"), "holder", "w").Err())
			time.AfterFunc(time.Hour, func() {
				rdb.HSet(context.Background(), taskstate.LiveKey("t_run"), "ended", "failed", "result", `{"id":"t_run"}`)
			})
			if store == nil {
				require.NoError(t, wait("t_run"), name)
			}
			synctest.Wait()

			// It has ended, and its result is in another bucket.
			require.NoError(t, rdb.HSet(t.Context(), taskstate.LiveKey("t_ended"), "ended", "completed").Err())
			err = wait("t_ended")
			require.Less(t, time.Since(begun), time.Minute, name)
			if store == nil {
				require.ErrorAs(t, err, new(*tasks.ResultInStoreError))
				require.ErrorIs(t, client.Cancel(t.Context(), "t_ended"), tasks.ErrEnded)
			} else {
				require.ErrorContains(t, err, "is it the workers' bucket?")
			}
		})
	}
}
