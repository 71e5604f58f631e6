package handlers_test

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
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// alone runs a story in synthetic time, without a worker at first.
func alone(t *testing.T, story func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer func() {
			if r.stop != nil {
				r.stop()
			}
		}()
		story(t, r)
	})
}

const textQueue = "asynq:{text:interactive}:"

// died leaves what a worker leaves that was killed while it was at a task, so long ago
// that its lease has run out.
func (r *rig) died(queue, id string) {
	r.t.Helper()
	ctx := r.t.Context()
	prefix := "asynq:{" + queue + "}:"
	n, err := r.redis.LRem(ctx, prefix+"pending", 1, id).Result()
	require.NoError(r.t, err)
	require.EqualValues(r.t, 1, n)
	require.NoError(r.t, r.redis.LPush(ctx, prefix+"active", id).Err())
	require.NoError(r.t, r.redis.HSet(ctx, prefix+"t:"+id, "state", "active").Err())
	require.NoError(r.t, r.redis.ZAdd(ctx, prefix+"lease", redisZ(time.Now().Add(-time.Minute), id)).Err())
	require.NoError(r.t, r.redis.HSet(ctx, tasks.LiveKey(id), "holder", "a dead one", "calls", 1, "attempts", 1).Err())
}

func TestATaskThatMayHaveBeenBilledTwiceSaysSo(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		r.died("text:interactive", id)
		r.work()
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 2, result.Usage.Calls)
		require.Equal(t, 1, result.Usage.Unsettled)
		require.Equal(t, "1", r.redis.HGet(t.Context(), tasks.LiveKey(id), "crashes").Val())
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
		// Two workers; the first is in a long call when Redis goes away for so long that
		// every lease runs out.
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

// cable is the way to Redis; cut, every command fails as it does when nobody listens.
type cable struct {
	mu  sync.Mutex
	off bool
}

func (c *cable) cut(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

func (c *cable) gone() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return errors.New("dial tcp: connection refused")
	}
	return nil
}

func (c *cable) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *cable) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := c.gone(); err != nil {
			time.Sleep(100 * time.Millisecond) // as the client waits between its tries
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (c *cable) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := c.gone(); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
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

// deadly is an AI whose answer to some prompts kills the worker: the story stops that
// worker as a kill would.
func TestATaskThatKillsItsWorkersIsPoisonedAndItsNeighboursAreNot(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		var ids []string
		for i := range 12 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("task ", i, ".")}))
		}
		deaths, fallen := r.killer(ids[5])
		require.Equal(t, 3, deaths)
		require.LessOrEqual(t, fallen, 12)
		for i, id := range ids {
			result := r.wait(id)
			if i == 5 {
				require.NotNil(t, result.Error)
				require.Equal(t, "poisoned", result.Error.Code)
				continue
			}
			require.Equal(t, tasks.Completed, result.Status, "%d: %v", i, result.Error)
		}
	})
}

// killer plays workers that die as soon as the poison is in their body, until nothing
// dies any more, and gives how many died.
func (r *rig) killer(poison string) (deaths, fallen int) {
	for range 8 {
		cfg := r.cfg
		cut := &cable{}
		client := redis.NewClient(r.redis.Options())
		client.AddHook(cut)
		cfg.Redis = client
		cfg.Store = &deadStore{Store: r.store, cable: cut}
		dead := make(chan struct{})
		var once sync.Once
		cfg.AI = r.ai.Client()
		cfg.AI.HTTP = &http.Client{Transport: mortal{next: cfg.AI.HTTP.Transport, cable: cut, die: func(body string) {
			if strings.Contains(body, "task 5.") {
				once.Do(func() { cut.cut(true); close(dead) })
			}
		}}}
		one := *r
		one.cfg, one.redis = cfg, client
		one.work()
		select {
		case <-dead:
			deaths++
			fallen += len(r.redis.LRange(r.t.Context(), textQueue+"active", 0, -1).Val())
			go one.stop()
			time.Sleep(2 * time.Minute)
		case <-time.After(15 * time.Minute):
			one.stop()
			client.Close()
			return deaths, fallen
		}
		client.Close()
	}
	return deaths, fallen
}

// mortal is the way to Workers AI of a worker that can die.
type mortal struct {
	next  http.RoundTripper
	cable *cable
	die   func(body string)
}

func (m mortal) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	if !strings.Contains(string(body), "task 5.") {
		time.Sleep(2 * time.Second) // they are in the body when the poison acts
	}
	if m.cable.gone() == nil {
		m.die(string(body))
	}
	if err := m.cable.gone(); err != nil {
		time.Sleep(time.Minute)
		return nil, err
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	return m.next.RoundTrip(req)
}

// deadStore is a bucket that a dead worker cannot reach.
type deadStore struct {
	storage.Store
	cable *cable
}

func (s *deadStore) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.cable.gone(); err != nil {
		return err
	}
	return s.Store.Create(ctx, key, body, contentType)
}

func (s *deadStore) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.cable.gone(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body, contentType)
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
		time.Sleep(3 * time.Minute) // it has given up holding the answer
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

// noResults is a store that takes everything but results.
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

func TestExpiredTasksEndWhereverTheyWait(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 1, Code: 3021, Header: http.Header{"Retry-After": {"900"}}})
		first := r.enqueue(tasks.Text{Prompt: "closes the gate"})
		time.Sleep(5 * time.Second)
		parked := r.enqueue(tasks.Text{Prompt: "parked"}, tasks.WithTimeToLive(time.Minute))
		time.Sleep(50 * time.Second)
		start := time.Now()
		// Scheduled by hand beyond its deadline: the door would not let it in.
		accepted := r.enqueue(tasks.Image{Prompt: "later"}, tasks.WithDelay(30*time.Second), tasks.WithTimeToLive(40*time.Second))
		require.NoError(t, r.redis.ZAddXX(t.Context(), "asynq:{image:interactive}:scheduled", redisZ(start.Add(time.Hour), accepted)).Err())
		for _, id := range []string{parked, accepted} {
			ctx, cancel := context.WithTimeout(t.Context(), 160*time.Second)
			result, err := r.client.Wait(ctx, id)
			cancel()
			require.NoError(t, err)
			require.Equal(t, "deadline_exceeded", result.Error.Code)
		}
		require.Less(t, time.Since(start), 160*time.Second)
		require.Equal(t, tasks.Completed, r.wait(first).Status)
	})
}

func TestACancelledTaskEndsInAnyState(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		// The gate is closed for long: one task is parked, and one waits behind a long queue.
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 1, Code: 3021, Header: http.Header{"Retry-After": {"900"}}})
		r.enqueue(tasks.Text{Prompt: "closes the gate"})
		time.Sleep(5 * time.Second)
		parked := r.enqueue(tasks.Text{Prompt: "parked"})
		time.Sleep(5 * time.Second)
		scheduled := r.enqueue(tasks.Text{Prompt: "later"}, tasks.WithDelay(time.Hour))
		// Two parts: the first is in a call when the cancel comes, the second is not sent.
		texts := make([]string, 150)
		for i := range texts {
			texts[i] = fmt.Sprint("text ", i)
		}
		r.ai.Fault(workersaitest.Fault{Kind: "embedding", Delay: 30 * time.Second})
		active := r.enqueue(tasks.Embedding{Texts: texts})
		time.Sleep(5 * time.Second)
		for _, id := range []string{parked, scheduled, active} {
			require.NoError(t, r.client.Cancel(t.Context(), id))
		}
		start := time.Now()
		for _, id := range []string{parked, scheduled} {
			result := r.wait(id)
			require.NotNil(t, result.Error)
			require.Equal(t, "cancelled", result.Error.Code)
			require.Less(t, time.Since(start), 10*time.Second)
		}
		require.Equal(t, "cancelled", r.wait(active).Error.Code)
		require.Less(t, time.Since(start), 40*time.Second)
		require.Len(t, r.calls("@cf/baai/bge-base-en-v1.5"), 1)
		time.Sleep(10 * time.Second)
		require.Zero(t, r.redis.Exists(t.Context(), tasks.CancelledKey).Val())
		require.Empty(t, r.keys("default/dead/"), "what was wanted is no failure to look after")
	})
}

func TestACancelOutlivesTheLossOfRedis(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		require.NoError(t, r.client.Cancel(t.Context(), id))
		require.NoError(t, r.redis.FlushAll(t.Context()).Err())
		time.Sleep(2 * time.Minute)
		r.work()
		require.Equal(t, "cancelled", r.wait(id).Error.Code)
		require.Empty(t, r.ai.Requests())
	})
}

func TestADamagedMessageDoesNotStopTheRecoveryOfOthers(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		at := t.Context()
		recorded, lone := r.enqueue(tasks.Text{Prompt: "a"}), r.enqueue(tasks.Text{Prompt: "b"}, tasks.WithAccept(tasks.InRedis))
		other := r.enqueue(tasks.Text{Prompt: "c"})
		for _, id := range []string{recorded, lone, other} {
			r.died("text:interactive", id)
			require.NoError(t, r.redis.Del(at, tasks.LiveKey(id)).Err())
		}
		for _, id := range []string{recorded, lone} {
			require.NoError(t, r.redis.HSet(at, textQueue+"t:"+id, "msg", "\x0a\xff nonsense").Err())
		}
		time.Sleep(time.Minute)
		r.work()
		require.Equal(t, tasks.Completed, r.wait(other).Status)
		require.Equal(t, tasks.Completed, r.wait(recorded).Status, "its record is whole")
		require.Equal(t, "payload_invalid", r.wait(lone).Error.Code)
		require.EqualValues(t, 1, r.redis.Exists(at, "neuronmill:corrupt:{text:interactive}:"+lone).Val(), "kept for a person")
		require.Zero(t, r.redis.LLen(at, textQueue+"active").Val())
	})
}

func TestAnActiveTaskWithoutALeaseComesBack(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		at := t.Context()
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithAccept(tasks.InRedis))
		r.died("text:interactive", id)
		require.NoError(t, r.redis.ZRem(at, textQueue+"lease", id).Err())
		require.NoError(t, r.redis.LPush(at, textQueue+"active", "t_gone").Err())
		r.work()
		ctx, cancel := context.WithTimeout(at, 3*time.Minute)
		defer cancel()
		result, err := r.client.Wait(ctx, id)
		require.NoError(t, err)
		require.Equal(t, tasks.Completed, result.Status)
		time.Sleep(time.Minute)
		require.Zero(t, r.redis.LLen(at, textQueue+"active").Val(), "an id without a message is removed")
	})
}

func TestAnArchivedTaskGetsItsFailureDocument(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		require.NoError(t, asynq.NewInspectorFromRedisClient(r.redis).ArchiveTask("text:interactive", id))
		r.work()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		result, err := r.client.Wait(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "archived", result.Error.Code)
		time.Sleep(time.Second)
		require.Zero(t, r.redis.ZCard(t.Context(), textQueue+"archived").Val())
		require.Empty(t, r.keys("default/pending/"))
	})
}

func TestRecordsOfAllTenantsComeBackAndDamagedOnesEnd(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		other := tasks.NewClient(tasks.Config{Redis: r.redis, Store: r.store, Tenant: "acme"})
		mine := r.enqueue(tasks.Text{Prompt: "a"})
		theirs, err := other.Enqueue(t.Context(), tasks.Text{Prompt: "b"})
		require.NoError(t, err)
		r.put("acme-two/pending/t_damaged.json", "{nonsense")
		require.NoError(t, r.redis.FlushAll(t.Context()).Err())
		time.Sleep(2 * time.Minute)
		r.work()
		require.Equal(t, tasks.Completed, r.wait(mine).Status)
		result, err := other.Wait(t.Context(), theirs.ID)
		require.NoError(t, err)
		require.Equal(t, tasks.Completed, result.Status)
		damaged := tasks.NewClient(tasks.Config{Redis: r.redis, Store: r.store, Tenant: "acme-two"})
		result, err = damaged.Wait(t.Context(), "t_damaged")
		require.NoError(t, err)
		require.Equal(t, "payload_invalid", result.Error.Code)
		time.Sleep(time.Minute)
		require.Empty(t, r.keys("acme-two/pending/"))
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
			n := r.redis.HGet(t.Context(), tasks.LiveKey(id), "holder")
			require.ErrorIs(t, n.Err(), redis.Nil)
		}
	})
}

func TestAPanicInAGoroutineOfAHandlerEndsItsTaskAlone(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		ai := r.ai.Client()
		ai.HTTP = &http.Client{Transport: panics{ai.HTTP.Transport}}
		r.cfg.AI = ai
		r.work()
		bad := r.wait(r.enqueue(tasks.Embedding{Texts: []string{"panic now"}}))
		require.Equal(t, "internal_error", bad.Error.Code)
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Embedding{Texts: []string{"good"}})).Status)
	})
}

type panics struct{ next http.RoundTripper }

func (p panics) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(body), "panic now") {
		panic("out of range")
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	return p.next.RoundTrip(req)
}

// Redis that is full or a replica while a call is in flight costs nothing: the answer
// is stored, and the task acknowledged once Redis is well.
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

// A call that Redis does not count is not sent.
func TestACallThatCannotBeCountedIsNotSent(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		full := &refuses{word: "OOM command not allowed when used memory > 'maxmemory'.", only: `HINCRBY", KEYS[1], "calls"`}
		full.on(true)
		r.redis.AddHook(full)
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(time.Minute)
		require.Empty(t, r.ai.Requests())
		full.on(false)
		require.Equal(t, tasks.Completed, r.wait(id).Status)
	})
}

// refuses is a Redis that answers writes with an error reply.
type refuses struct {
	word string
	only string // commands with this in an argument
	mu   sync.Mutex
	now  bool
}

func (f *refuses) on(now bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

func (f *refuses) hit(cmd redis.Cmder) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.now {
		return false
	}
	if f.only != "" {
		return slices.ContainsFunc(cmd.Args(), func(a any) bool { return strings.Contains(fmt.Sprint(a), f.only) })
	}
	switch cmd.Name() {
	case "evalsha", "eval", "hincrby", "hset", "set", "zadd", "lpush":
		return true
	}
	return false
}

func (f *refuses) DialHook(next redis.DialHook) redis.DialHook { return next }
func (f *refuses) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if f.hit(cmd) {
			cmd.SetErr(refusal(f.word))
			return cmd.Err()
		}
		return next(ctx, cmd)
	}
}

func (f *refuses) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, f.hit) {
			return next(ctx, cmds)
		}
		for _, c := range cmds {
			c.SetErr(refusal(f.word))
		}
		return refusal(f.word)
	}
}

type refusal string

func (e refusal) Error() string { return string(e) }
func (refusal) RedisError()     {}

func TestTheFirstResultStands(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 20 * time.Second})
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		// Another run, taken for dead meanwhile, ends first.
		first := `{"id":"` + id + `","status":"completed","metadata":{"run":"first"}}`
		require.NoError(t, r.store.Create(t.Context(), tasks.ResultKey("default", id), strings.NewReader(first), "application/json"))
		time.Sleep(time.Minute)
		require.Len(t, r.ai.Requests(), 1)
		require.JSONEq(t, first, string(r.read(tasks.ResultKey("default", id))))
		require.Empty(t, r.keys("default/pending/"))
	})
}

func TestAFailureThatComesSecondIsNotListed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 20 * time.Second, Code: 5006})
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		first := `{"id":"` + id + `","status":"completed"}`
		require.NoError(t, r.store.Create(t.Context(), tasks.ResultKey("default", id), strings.NewReader(first), "application/json"))
		time.Sleep(time.Minute)
		require.Empty(t, r.keys("default/dead/"))
	})
}

func TestATaskWhoseDeadlinePassedInTheQueueSendsNoCall(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(20*time.Second))
		time.Sleep(25 * time.Second)
		r.work()
		result := r.wait(id)
		require.NotNil(t, result.Error)
		require.Equal(t, "deadline_exceeded", result.Error.Code)
		require.Empty(t, r.ai.Requests())
	})
}

// The queue cannot write down an error with a broken byte: its task would stay with a
// worker that has let it go.
func TestABrokenByteInAnErrorDoesNotKeepItsTask(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Store = &cutText{Store: r.store, until: time.Now().Add(5 * time.Second)}
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		start := time.Now()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Less(t, time.Since(start), 20*time.Second)
	})
}

// cutText is a store whose errors hold a text cut in the middle of a letter.
type cutText struct {
	storage.Store
	until time.Time
}

func (s *cutText) Head(ctx context.Context, key string) (storage.Info, error) {
	if time.Now().Before(s.until) {
		return storage.Info{}, errors.New("503: caf\xc3")
	}
	return s.Store.Head(ctx, key)
}
