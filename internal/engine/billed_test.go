package engine_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestATaskThatMayHaveBeenBilledTwiceSaysSo(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		r.died("text:interactive", id)
		r.work()
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 2, result.Usage.Calls)
		require.Equal(t, 1, result.Usage.Unsettled)
		require.Equal(t, "1", r.redis.HGet(t.Context(), taskstate.LiveKey(id), "crashes").Val())
		lost := r.enqueue(tasks.Text{Prompt: "lost answer"})
		refused := r.enqueue(tasks.Text{Prompt: "refused"})
		require.Zero(t, r.wait(lost).Usage.Unsettled)
		require.Zero(t, r.wait(refused).Usage.Unsettled)
	})
}

func TestALostAnswerIsUnsettledAndARefusalIsNot(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Contains: "dropped", To: 1, DropAnswer: true})
		r.ai.Fault(workersaitest.Fault{Contains: "refused", To: 1, Status: http.StatusInternalServerError, Body: `{"errors":[{"code":8004,"message":"no"}]}`})
		dropped, refused := r.wait(r.enqueue(tasks.Text{Prompt: "dropped"})), r.wait(r.enqueue(tasks.Text{Prompt: "refused"}))
		require.Equal(t, []int{2, 1}, []int{dropped.Usage.Calls, dropped.Usage.Unsettled})
		require.Equal(t, []int{2, 0}, []int{refused.Usage.Calls, refused.Usage.Unsettled})
	})
}

func TestAWorkerThatLivesKeepsItsTaskWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		// Two workers. The first runs a long call while Redis is unreachable until every
		// lease expires.
		cut := &cable{}
		first, second := *r, *r
		r.redis.AddHook(cut)
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 3 * time.Minute})
		first.work()
		defer func() { first.stop() }()
		id := r.enqueue(tasks.Text{Prompt: "long"})
		time.Sleep(5 * time.Second)
		require.Len(t, r.ai.Requests(), 1)
		second.cfg.AI = r.ai.Client()
		second.work()
		defer func() { second.stop() }()
		time.Sleep(5 * time.Second)
		cut.cut(true)
		time.Sleep(90 * time.Second)
		cut.cut(false)
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		require.Zero(t, result.Usage.Unsettled)
		time.Sleep(2 * time.Minute)
		require.Len(t, r.ai.Requests(), 1, "nobody else has paid for it")
	})
}

func TestAWipedRedisCostsARunningTaskNoSecondCall(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 4 * time.Minute})
		id := r.enqueue(tasks.Text{Prompt: "long"})
		time.Sleep(30 * time.Second)
		require.NoError(t, r.redis.FlushAll(t.Context()).Err())
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		time.Sleep(3 * time.Minute)
		require.Len(t, r.ai.Requests(), 1)
		require.Empty(t, r.keys("default/pending/"))
	})
}

func TestARecoveredTaskSaysThatEarlierCallsAreNotKnown(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(2 * time.Minute)
		require.NoError(t, r.redis.FlushAll(t.Context()).Err())
		r.work()
		require.WithinDuration(t, time.Now(), r.wait(id).Usage.CountedSince, time.Minute)
	})
}

func TestAPaidPictureIsNotPaidForAgain(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		// The first worker dies between the picture and the result.
		fails := &noResults{Store: r.store}
		r.cfg.Store = fails
		r.work()
		id := r.enqueue(tasks.Image{Prompt: "a mill"})
		time.Sleep(10 * time.Second)
		require.Len(t, r.ai.Requests(), 1)
		require.Contains(t, r.keys("default/tasks/"), "default/tasks/"+id+"/answer.json")
		time.Sleep(3 * time.Minute) // the worker no longer keeps the answer in memory
		fails.off.Store(true)
		result := r.wait(id)
		require.Len(t, r.ai.Requests(), 1)
		require.Equal(t, 1, result.Usage.Calls)
		require.Zero(t, result.Usage.Unsettled)
		require.Positive(t, result.Usage.Neurons)
		require.Len(t, r.read(result.Artefacts[0].Key), int(result.Artefacts[0].Bytes))
		time.Sleep(5 * time.Second)
		require.NotContains(t, r.keys("default/tasks/"), "default/tasks/"+id+"/answer.json")
	})
}

// noResults is a store that refuses only results.
type noResults struct {
	storage.Store
	off atomic.Bool
}

func (s *noResults) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if !s.off.Load() && strings.HasSuffix(key, "/result.json") {
		return errors.New("503 slow down")
	}
	return s.Store.Create(ctx, key, body, contentType)
}

func TestAStoredAnswerOfOtherContentIsNotUsed(t *testing.T) {
	for name, story := range map[string]struct {
		spoil func(map[string]any)
		calls int
	}{
		"its own": {func(map[string]any) {}, 0},
		"model":   {func(a map[string]any) { a["model"] = "@cf/other/model" }, 1},
		"digest":  {func(a map[string]any) { a["digest"] = "other" }, 1},
		"files":   {func(a map[string]any) { a["files"].([]any)[0].(map[string]any)["sha256"] = "00" }, 1},
	} {
		alone(t, func(t *testing.T, r *rig) {
			id := r.enqueue(tasks.Image{Prompt: "a mill"})
			var task tasks.Task
			require.NoError(t, json.Unmarshal(r.read("default/pending/"+id+".json"), &task))
			picture := r.put("default/tasks/"+id+"/image.png", "picture")
			sum := sha256.Sum256([]byte("picture"))
			a := map[string]any{
				"model": task.Model, "digest": task.Digest, "neurons": 7, "output": map[string]any{"image": picture},
				"files": []any{map[string]any{"key": picture, "content_type": "image/png", "bytes": 7, "sha256": hex.EncodeToString(sum[:])}},
			}
			story.spoil(a)
			document, err := json.Marshal(a)
			require.NoError(t, err)
			r.put("default/tasks/"+id+"/answer.json", string(document))
			r.redis.HSet(t.Context(), taskstate.LiveKey(id), "calls", 1, "attempts", 1)
			r.work()
			require.Equal(t, tasks.Completed, r.wait(id).Status, name)
			require.Len(t, r.ai.Requests(), story.calls, name)
		})
	}
}

func TestEachPartOfALargeEmbeddingIsPaidForOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var texts []string
		for i := range 250 {
			texts = append(texts, fmt.Sprint("text ", i))
		}
		r.ai.Fault(workersaitest.Fault{Kind: "embedding", Contains: "text 249", To: 2, DropAnswer: true})
		result := r.wait(r.enqueue(tasks.Embedding{Texts: texts}))
		out := output[tasks.EmbeddingOutput](t, result)
		for i, v := range out.Vectors {
			require.Equal(t, workersaitest.Vector(texts[i], 768), v)
		}
		require.Len(t, r.ai.Requests(), 5, "two parts once, the last one three times")
		require.Equal(t, []int{5, 2}, []int{result.Usage.Calls, result.Usage.Unsettled})
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{"default/tasks/" + result.ID + "/result.json"}, r.keys("default/tasks/"))
	})
}

// A bucket that fails between two parts causes no second call for either part.
func TestAPaidPartIsHeldWhileTheBucketIsAway(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Store = &awayAfter{Store: r.store, long: time.Minute}
		r.enqueue(tasks.Embedding{Texts: []string{"the client learns which Redis it is"}}, tasks.WithDelay(time.Hour))
		var texts []string
		for i := range 250 {
			texts = append(texts, fmt.Sprint("text ", i))
		}
		id := r.enqueue(tasks.Embedding{Texts: texts})
		require.NoError(t, r.redis.HSet(t.Context(), taskstate.LiveKey(id), "calls", 1).Err()) // so the worker looks for the checkpoints of an earlier run
		r.work()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Len(t, r.ai.Requests(), 3)
	})
}

func TestAStoppingWorkerSendsNoCallAndStoresTheRunningOnes(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.paced(20)
		r.ai.Fault(workersaitest.Fault{Kind: "embedding", Delay: 20 * time.Second})
		r.work()
		var ids []string
		for i := range 6 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("text ", i)}}))
			time.Sleep(time.Second)
		}
		sent := len(r.ai.Requests())
		require.Positive(t, sent)
		r.stop()
		require.Len(t, r.ai.Requests(), sent, "no call after the stop")
		ended := 0
		for _, id := range ids {
			if _, err := r.client.Result(t.Context(), id); err == nil {
				ended++
			}
		}
		require.Positive(t, ended)
		require.Less(t, ended, len(ids))
		for _, id := range ids {
			n := r.redis.HGet(t.Context(), taskstate.LiveKey(id), "holder")
			require.ErrorIs(t, n.Err(), redis.Nil)
		}
	})
}

// A full Redis, or a Redis that became a replica, during a call costs nothing. The answer
// is stored, and the task is acknowledged once Redis accepts writes.
func TestACallInFlightOutlivesARedisThatRefuses(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		full := &refuses{word: "OOM command not allowed when used memory > 'maxmemory'."}
		r.redis.AddHook(full)
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 20 * time.Second})
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		full.on(true)
		time.Sleep(2 * time.Minute)
		require.Contains(t, r.keys("default/tasks/"), "default/tasks/"+id+"/result.json")
		full.on(false)
		require.Zero(t, r.wait(id).Usage.Unsettled)
		time.Sleep(3 * time.Minute)
		require.Len(t, r.ai.Requests(), 1)
		require.Zero(t, r.redis.Exists(t.Context(), textQueue+"t:"+id).Val())
	})
}

// A call that Redis cannot count is not sent.
func TestACallThatCannotBeCountedIsNotSent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		full := &refuses{word: "OOM command not allowed when used memory > 'maxmemory'.", only: `"calls", 1`}
		full.on(true)
		r.redis.AddHook(full)
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(time.Minute)
		require.Empty(t, r.ai.Requests())
		full.on(false)
		require.Equal(t, tasks.Completed, r.wait(id).Status)
	})
}

// Redis takes so long to count a call that no task needs it any more.
func TestACallThatIsCountedAfterTheDeadlineIsNotSent(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.work()
		r.redis.AddHook(&slowReply{to: `"calls", `, by: 15 * time.Second})
		r.endsUncalled(r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(10*time.Second)))
		require.Zero(t, r.sent())
	})
	alone(t, func(t *testing.T, r *rig) { // two tasks wait together for the next slot of the gate
		r.paced(6)
		r.work()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"first"}}))
		require.NoError(t, r.redis.ScriptFlush(t.Context()).Err()) // so that the text is sent again
		r.redis.AddHook(&slowReply{to: `"calls", `, by: 15 * time.Second})
		one := r.enqueue(tasks.Embedding{Texts: []string{"one"}}, tasks.WithTimeToLive(20*time.Second))
		two := r.enqueue(tasks.Embedding{Texts: []string{"two"}}, tasks.WithTimeToLive(20*time.Second))
		r.endsUncalled(one)
		r.endsUncalled(two)
		require.Equal(t, 1, r.sent())
	})
}

// endsUncalled requires that a task ends by its deadline without a call.
func (r *rig) endsUncalled(id string) {
	r.t.Helper()
	result := r.wait(id)
	require.NotNil(r.t, result.Error)
	require.Equal(r.t, tasks.CodeDeadlineExceeded, result.Error.Code)
	require.Zero(r.t, result.Usage.Calls)
}

// slowReply delays the reply to the first script with a text.
type slowReply struct {
	to   string
	by   time.Duration
	done atomic.Bool
}

func (s *slowReply) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *slowReply) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		defer s.delay(cmd)
		return next(ctx, cmd)
	}
}

func (s *slowReply) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		defer s.delay(cmds...)
		return next(ctx, cmds)
	}
}

func (s *slowReply) delay(cmds ...redis.Cmder) {
	for _, cmd := range cmds {
		if slices.ContainsFunc(cmd.Args(), func(a any) bool { return strings.Contains(fmt.Sprint(a), s.to) }) && s.done.CompareAndSwap(false, true) {
			time.Sleep(s.by)
			return
		}
	}
}
