package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// waits calls Wait without a Store, for a quarter of an hour at most.
func (r *rig) waits(id string) (*tasks.Result, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 15*time.Minute)
	defer cancel()
	return tasks.NewClient(tasks.Config{Redis: r.redis}).Wait(ctx, id)
}

func (r *rig) boxless(p tasks.Payload, opts ...tasks.Option) string {
	r.t.Helper()
	accepted, err := tasks.NewClient(tasks.Config{Redis: r.redis}).Enqueue(r.t.Context(), p, opts...)
	require.NoError(r.t, err)
	return accepted.ID
}

// Every Wait ends, also for a producer without a Store.
func TestAWaitWithoutAStoreEnds(t *testing.T) {
	for name, story := range map[string]func(t *testing.T, r *rig){
		"for a small result": func(t *testing.T, r *rig) {
			r.work()
			id := r.boxless(tasks.Text{Prompt: "hi"})
			result, err := r.waits(id)
			require.NoError(t, err)
			require.Equal(t, tasks.Completed, result.Status)
		},
		"for a failure": func(t *testing.T, r *rig) {
			r.ai.Fault(workersaitest.Fault{Code: 5006})
			r.work()
			result, err := r.waits(r.boxless(tasks.Text{Prompt: "hi"}))
			require.NoError(t, err)
			require.Equal(t, tasks.CodeRequestRefused, result.Error.Code)
		},
		"for a result that is too large for Redis": func(t *testing.T, r *rig) {
			r.work()
			var texts []string
			for i := range 50 {
				texts = append(texts, fmt.Sprint("text ", i))
			}
			id := r.boxless(tasks.Embedding{Texts: texts})
			_, err := r.waits(id)
			var inStore *tasks.ResultInStoreError
			require.ErrorAs(t, err, &inStore)
			require.Equal(t, tasks.ResultInStoreError{ID: id, Status: tasks.Completed}, *inStore)
			require.ErrorContains(t, err, "Config.Store")
		},
		"after a worker died between the result and its publication": func(t *testing.T, r *rig) {
			id := r.boxless(tasks.Text{Prompt: "hi"})
			r.died("text:interactive", id)
			require.NoError(t, r.store.Create(t.Context(), objects.ResultKey("default", id), strings.NewReader(`{"id":"`+id+`","status":"completed"}`), ""))
			r.work()
			result, err := r.waits(id)
			require.NoError(t, err)
			require.Equal(t, tasks.Completed, result.Status)
		},
		"after a result write whose reply was lost": func(t *testing.T, r *rig) {
			r.cfg.Store = &oneAmbiguous{Store: r.store}
			r.work()
			result, err := r.waits(r.boxless(tasks.Text{Prompt: "hi"}))
			require.NoError(t, err)
			require.Equal(t, tasks.Completed, result.Status)
			require.Zero(t, r.redis.ZCard(t.Context(), queue.DeadlinesKey("text:interactive")).Val())
		},
		"after a failure write whose reply was lost": func(t *testing.T, r *rig) {
			r.cfg.Store = &oneAmbiguous{Store: r.store}
			r.ai.Fault(workersaitest.Fault{Code: 5006})
			r.work()
			result, err := r.waits(r.boxless(tasks.Text{Prompt: "hi"}))
			require.NoError(t, err)
			require.Equal(t, tasks.Failed, result.Status)
			time.Sleep(time.Minute)
			require.Len(t, r.keys("default/dead/"), 1)
		},
		"for a repeated key whose task ended hours ago": func(t *testing.T, r *rig) {
			r.work()
			first := r.boxless(tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
			_, err := r.waits(first)
			require.NoError(t, err)
			r.forget(first)
			require.Equal(t, first, r.boxless(tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k")))
			result, err := r.waits(first)
			require.NoError(t, err)
			require.Equal(t, tasks.Completed, result.Status)
			require.Len(t, r.ai.Requests(), 1)
		},
		"for a repeated key that had another payload hours ago": func(t *testing.T, r *rig) {
			r.work()
			first := r.boxless(tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("k"))
			_, err := r.waits(first)
			require.NoError(t, err)
			r.forget(first)
			require.Equal(t, first, r.boxless(tasks.Text{Prompt: "other"}, tasks.WithIdempotencyKey("k")))
			_, err = r.waits(first)
			require.ErrorIs(t, err, tasks.ErrIdempotencyMismatch)
			require.Len(t, r.ai.Requests(), 1)
		},
		"for a task that the housekeeping ends": func(t *testing.T, r *rig) {
			id := r.boxless(tasks.Text{Prompt: "hi"}, tasks.WithDelay(time.Hour))
			require.NoError(t, r.client.Cancel(t.Context(), id))
			r.work()
			result, err := r.waits(id)
			require.NoError(t, err)
			require.Equal(t, tasks.CodeCancelled, result.Error.Code)
		},
		"for a task with a result that the housekeeping meets": func(t *testing.T, r *rig) {
			id := r.boxless(tasks.Text{Prompt: "hi"}, tasks.WithDelay(time.Hour))
			require.NoError(t, r.store.Create(t.Context(), objects.ResultKey("default", id), strings.NewReader(`{"id":"`+id+`","status":"completed"}`), ""))
			require.NoError(t, tasks.NewClient(tasks.Config{Redis: r.redis}).Cancel(t.Context(), id))
			r.work()
			result, err := r.waits(id)
			require.NoError(t, err)
			require.Equal(t, tasks.Completed, result.Status)
		},
		"while Redis refuses the publication": func(t *testing.T, r *rig) {
			full := &refuses{word: "OOM command not allowed", only: "completed"}
			r.redis.AddHook(full)
			full.on(true)
			r.work()
			id := r.boxless(tasks.Text{Prompt: "hi"})
			time.Sleep(30 * time.Second)
			full.on(false)
			result, err := r.waits(id)
			require.NoError(t, err)
			require.Equal(t, tasks.Completed, result.Status)
			require.Len(t, r.ai.Requests(), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				story(t, r)
			})
		})
	}
}

// forget deletes the record of an ended task, which Redis would expire after an hour.
func (r *rig) forget(id string) {
	r.t.Helper()
	time.Sleep(time.Minute)
	require.NoError(r.t, r.redis.Del(r.t.Context(), taskstate.LiveKey(id), taskstate.PublishedKey(id)).Err())
}

// oneAmbiguous writes a result and then reports an error, once.
type oneAmbiguous struct {
	storage.Store
	n atomic.Int64
}

func (s *oneAmbiguous) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	err := s.Store.Create(ctx, key, body, contentType)
	if err == nil && strings.HasSuffix(key, "result.json") && s.n.Add(1) == 1 {
		return errors.New("connection reset by peer")
	}
	return err
}

// Redis keeps a result only for producers without a Store and for old ones without a
// record.
func TestAnEndedTaskLeavesLittleInRedis(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.work()
		ids := map[string]string{
			"with a record":            r.enqueue(tasks.Text{Prompt: "one"}),
			"by Redis, with a Store":   r.enqueue(tasks.Text{Prompt: "two"}, tasks.WithDurability(tasks.InRedis)),
			"keyed":                    r.enqueue(tasks.Text{Prompt: "three"}, tasks.WithIdempotencyKey("k")),
			"without a Store":          r.boxless(tasks.Text{Prompt: "four"}),
			"of an old producer":       r.old(tasks.Text{Prompt: "five"}, false),
			"of an old one, in record": r.old(tasks.Text{Prompt: "six"}, true),
		}
		time.Sleep(time.Minute)
		for name, id := range ids {
			live := r.redis.HGetAll(t.Context(), taskstate.LiveKey(id)).Val()
			require.Equal(t, "completed", live["ended"], name)
			require.LessOrEqual(t, r.redis.TTL(t.Context(), taskstate.LiveKey(id)).Val(), taskstate.LiveTTL, name)
			document := r.redis.Get(t.Context(), taskstate.PublishedKey(id)).Val()
			_, inHash := live["result"]
			require.Equal(t, name == "without a Store", document != "", name)
			require.Equal(t, name == "of an old producer", inHash, "%s: it looks there", name)
			for field := range live {
				require.Contains(t, []string{"ended", "digest", "result", "attempts", "calls", "settled", "unpaid", "crashes", "neurons", "unusable"}, field, name)
			}
		}
		time.Sleep(taskstate.PublishedFor)
		_, err := r.waits(ids["without a Store"])
		require.ErrorAs(t, err, new(*tasks.ResultInStoreError), "it is known for a while only")
	})
}

// old enqueues as a producer of an earlier version does.
func (r *rig) old(p tasks.Payload, record bool) string {
	r.t.Helper()
	body, err := json.Marshal(p)
	require.NoError(r.t, err)
	task := tasks.Task{
		Version: 1, ID: fmt.Sprint("t_old", record), Tenant: "default", Kind: p.Kind(), Lane: tasks.Interactive, Model: "@cf/zai-org/glm-4.7-flash",
		Payload: body, Digest: "d", CreatedAt: time.Now().UTC(), Deadline: time.Now().Add(time.Hour), Pending: record,
	}
	require.NoError(r.t, r.client.Requeue(r.t.Context(), task))
	return task.ID
}

func TestAFailureIsADeadLetterOnlyWhenItIsItsTasksEnd(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		bucket := &refusesResults{Store: r.store}
		bucket.on.Store(true)
		r.cfg.Store = bucket
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		require.NoError(t, r.client.Cancel(t.Context(), r.enqueue(tasks.Text{Prompt: "other"})))
		r.ai.Fault(workersaitest.Fault{Code: 5006})
		r.work()
		time.Sleep(time.Minute)
		require.Empty(t, r.keys("default/dead/"), "its end is not written")
		r.stop()
		// Meanwhile another worker completes it.
		result, err := json.Marshal(tasks.Result{ID: id, Kind: tasks.KindText, Status: tasks.Completed})
		require.NoError(t, err)
		require.NoError(t, r.store.Create(t.Context(), objects.ResultKey("default", id), bytes.NewReader(result), ""))
		bucket.on.Store(false)
		r.work()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		time.Sleep(10 * time.Minute)
		require.Empty(t, r.keys("default/dead/"))
		require.NotContains(t, r.keys("default/tasks/"), objects.FailedTaskKey("default", id))
	})
}

// refusesResults is a bucket that refuses only results.
type refusesResults struct {
	storage.Store
	on atomic.Bool
}

func (s *refusesResults) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if s.on.Load() && strings.HasSuffix(key, "/result.json") {
		return errors.New("503 slow down")
	}
	return s.Store.Create(ctx, key, body, contentType)
}

// A worker may die after it has written a failure and before it has listed it as a dead
// letter.
func TestAFailureIsListedAlsoWhenItsWorkerDiedBefore(t *testing.T) {
	failure := func(t *testing.T, r *rig, id string) {
		document, err := json.Marshal(tasks.Result{ID: id, Kind: tasks.KindText, Status: tasks.Failed, Error: &tasks.TaskError{Code: tasks.CodeRequestRefused, Message: "no"}})
		require.NoError(t, err)
		require.NoError(t, r.store.Create(t.Context(), objects.ResultKey("default", id), bytes.NewReader(document), ""))
	}
	listed := func(t *testing.T, r *rig, id string) {
		time.Sleep(5 * time.Minute)
		require.Equal(t, []string{objects.DeadKey("default", id)}, r.keys("default/dead/"))
		require.Empty(t, r.keys("default/pending/"))
		_, err := r.client.Retry(t.Context(), id)
		require.NoError(t, err)
	}
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		r.died("text:interactive", id)
		failure(t, r, id)
		r.work()
		listed(t, r, id)
	})
	alone(t, func(t *testing.T, r *rig) { // and Redis lost its record
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		failure(t, r, id)
		require.NoError(t, r.redis.FlushAll(t.Context()).Err())
		r.work()
		listed(t, r, id)
	})
}

// A retry right after the result, before the worker has listed the failure, takes the
// task from its pending record.
func TestAFailureCanBeRetriedBeforeItIsListed(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		document := `{"id":"` + id + `","status":"failed","error":{"code":"x","message":"y"}}`
		require.NoError(t, r.store.Create(t.Context(), objects.ResultKey("default", id), strings.NewReader(document), ""))
		retried, err := r.client.Retry(t.Context(), id)
		require.NoError(t, err)
		require.NotEqual(t, id, retried.ID)
	})
}

// Producers may be upgraded before workers.
func TestATaskOfANewerVersionWaitsForAWorkerThatKnowsIt(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		var log bytes.Buffer
		r.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		newer := func(id string, d time.Duration) {
			document := fmt.Sprintf(`{"v":2,"id":%q,"tenant":"default","kind":"text","lane":"interactive","model":{"id":"x"},"pending":true,"deadline":%q,"payload":{"prompt":"hi"}}`,
				id, time.Now().Add(d).UTC().Format(time.RFC3339))
			require.NoError(t, r.client.Requeue(t.Context(), tasks.Task{Version: 1, ID: id, Tenant: "default", Kind: tasks.KindText, Lane: tasks.Interactive, Deadline: time.Now().Add(d)}))
			r.rewrite("text:interactive", id, document)
			require.NoError(t, r.store.Put(t.Context(), objects.PendingKey("default", id), strings.NewReader(document), ""))
		}
		newer("t_short", 10*time.Minute)
		newer("t_long", 48*time.Hour)
		r.work()
		time.Sleep(9 * time.Minute)
		require.Empty(t, r.keys("default/tasks/"), "nothing has failed")
		require.Len(t, r.keys("default/pending/"), 2)
		require.Equal(t, 1, strings.Count(log.String(), "tasks wait for a worker of a newer version"), "it is said once:\n%s", log.String())
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Text{Prompt: "hi"})).Status, "others are not held up")
		time.Sleep(5 * time.Minute)
		result := r.wait("t_short")
		require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
		require.Contains(t, result.Error.Message, "newer version")
		require.Equal(t, []string{objects.PendingKey("default", "t_long")}, r.keys("default/pending/"))
		require.Contains(t, string(r.read(objects.FailedTaskKey("default", "t_short"))), `"v":2`, "a newer version can retry it")
		_, err := r.client.Get(t.Context(), "t_long")
		require.NoError(t, err)
	})
}

// rewrite replaces the payload of a queued task.
func (r *rig) rewrite(queue, id, payload string) {
	r.t.Helper()
	key := "asynq:{" + queue + "}:t:" + id
	message, err := r.redis.HGet(r.t.Context(), key, "msg").Bytes()
	require.NoError(r.t, err)
	_, old, _ := tasks.DecodeMessage(message)
	require.NotEmpty(r.t, old)
	i := bytes.Index(message, old)
	length := func(n int) []byte {
		if n < 128 {
			return []byte{byte(n)}
		}
		return []byte{byte(n&0x7f | 0x80), byte(n >> 7)}
	}
	head := message[:i-len(length(len(old)))]
	changed := append(append(append(bytes.Clone(head), length(len(payload))...), payload...), message[i+len(old):]...)
	require.NoError(r.t, r.redis.HSet(r.t.Context(), key, "msg", changed).Err())
}

// A task run under another task's id would write the other task's result.
func TestATaskIsRunOnlyUnderItsOwnIDAndInItsOwnQueue(t *testing.T) {
	for name, change := range map[string]func(*tasks.Task){
		"another id":    func(t *tasks.Task) { t.ID = "t_other" },
		"another queue": func(t *tasks.Task) { t.Lane = tasks.Bulk },
		"a path":        func(t *tasks.Task) { t.Model = "@cf/../../accounts" },
	} {
		alone(t, func(t *testing.T, r *rig) {
			id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithDurability(tasks.InRedis))
			message, err := r.redis.HGet(t.Context(), textQueue+"t:"+id, "msg").Bytes()
			require.NoError(t, err)
			task, _, err := tasks.DecodeMessage(message)
			require.NoError(t, err)
			change(&task)
			document, err := json.Marshal(task)
			require.NoError(t, err)
			r.rewrite("text:interactive", id, string(document))
			r.work()
			result := r.wait(id)
			require.Equal(t, tasks.CodePayloadInvalid, result.Error.Code, name)
			require.Empty(t, r.ai.Requests(), name)
			require.NotContains(t, r.keys("default/tasks/"), objects.ResultKey("default", "t_other"), name)
		})
	}
}
