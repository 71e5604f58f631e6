package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestATaskThatAnotherProcessHasTakenMeanwhileIsNotCalledFor: a Redis that lost its
// latest writes delivers a task again while its first worker waits at the gate.
func TestATaskThatAnotherProcessHasTakenMeanwhileIsNotCalledFor(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]tasks.Payload{
		"taken when its call is counted": tasks.Text{Prompt: "hi"},
		"taken before it waits":          tasks.Image{Prompt: "hi"},
	} {
		t.Run(name, func(t *testing.T) { alone(t, func(t *testing.T, r *rig) { takenMeanwhile(t, r, payload) }) })
	}
}

func takenMeanwhile(t *testing.T, r *rig, payload tasks.Payload) {
	r.cfg.Gate = gate.New(gate.Config{
		Redis: r.redis, Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: 20, Source: "settings"} }, Log: r.cfg.Log,
	})
	first := r.enqueue(payload)
	r.work()
	r.wait(first)
	id := r.enqueue(payload)
	time.Sleep(time.Second)
	require.Len(t, r.ai.Requests(), 1, "it waits for its turn")
	require.NoError(t, r.redis.HSet(t.Context(), taskstate.LiveKey(id), "holder", "other").Err())
	require.NoError(t, r.redis.Set(t.Context(), "neuronmill:worker:other", 1, time.Minute).Err())
	time.Sleep(50 * time.Second)
	require.Len(t, r.ai.Requests(), 1, "the other one is at it")
	result := r.wait(id)
	require.Equal(t, tasks.Completed, result.Status)
	require.Equal(t, 1, result.Usage.Calls)
	require.Len(t, r.ai.Requests(), 2)
}

// TestWhatADeadWorkerLeftBesideAnEndedTaskGoes covers two cases: a result by another run,
// and a failure after artefacts were stored.
func TestWhatADeadWorkerLeftBesideAnEndedTaskGoes(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		done := r.enqueue(tasks.Image{Prompt: "done"})
		dropped := r.enqueue(tasks.Image{Prompt: "dropped"})
		for _, id := range []string{done, dropped} {
			r.put("default/tasks/"+id+"/answer.json", "{}")
			r.put("default/tasks/"+id+"/image.png", "half")
			require.NoError(t, r.redis.HSet(t.Context(), taskstate.LiveKey(id), "calls", 1, "attempts", 1).Err())
		}
		r.put("default/tasks/"+done+"/result.json", `{"status":"completed"}`)
		require.NoError(t, r.client.Cancel(t.Context(), dropped))
		r.work()
		time.Sleep(10 * time.Second)
		require.Equal(t, tasks.CodeCancelled, r.wait(dropped).Error.Code)
		for _, key := range r.keys("default/tasks/") {
			require.False(t, strings.HasSuffix(key, "/answer.json"), key)
		}
		require.NotContains(t, r.keys("default/tasks/"), "default/tasks/"+dropped+"/image.png")
		require.Contains(t, r.keys("default/tasks/"), "default/tasks/"+done+"/image.png")
	})
}

// TestWhatOnlyWaitsForItsTurnIsNotBlamedForTheDeathOfItsWorker: a crash while a task
// waits for a permit does not count against the task. Otherwise three restarts during an
// exhausted quota would fail every waiting task.
func TestWhatOnlyWaitsForItsTurnIsNotBlamedForTheDeathOfItsWorker(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		slow := func(string, string) gate.Pace { return gate.Pace{PerMinute: 1, Source: "settings"} }
		r.cfg.Gate = gate.New(gate.Config{Redis: r.redis, Pace: slow, Log: r.cfg.Log})
		cut := &cable{}
		mortal := *r
		mortal.redis = redis.NewClient(r.redis.Options())
		defer mortal.redis.Close()
		mortal.redis.AddHook(cut)
		mortal.cfg.Redis, mortal.cfg.Store = mortal.redis, &deadStore{Store: r.store, cable: cut}
		mortal.cfg.Gate = gate.New(gate.Config{Redis: mortal.redis, Pace: slow, Log: r.cfg.Log})
		r.ai.Fault(workersaitest.Fault{Hang: true})
		called := r.enqueue(tasks.Text{Prompt: "called"})
		mortal.work()
		defer func() { mortal.stop() }()
		time.Sleep(5 * time.Second)
		waiting := []string{r.enqueue(tasks.Text{Prompt: "waits"}), r.enqueue(tasks.Text{Prompt: "waits too"})}
		time.Sleep(10 * time.Second)
		cut.cut(true)
		r.ai.Heal()
		r.work()
		for _, id := range append(waiting, called) {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		crashes := func(id string) string { return r.redis.HGet(t.Context(), taskstate.LiveKey(id), "crashes").Val() }
		require.Equal(t, "1", crashes(called))
		for _, id := range waiting {
			require.Empty(t, crashes(id))
		}
	})
}

// keepsAnswers is a store that refuses to delete checkpoints until told otherwise.
type keepsAnswers struct {
	storage.Store
	until time.Time
}

func (s keepsAnswers) Delete(ctx context.Context, key string) error {
	if strings.HasSuffix(key, "/answer.json") && time.Now().Before(s.until) {
		return errors.New("503 slow down")
	}
	return s.Store.Delete(ctx, key)
}

// A checkpoint that cannot be deleted at once is deleted later, by any worker: the task has no owner meanwhile.
func TestAnAnswerThatCannotBeRemovedGoesLater(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Store = keepsAnswers{r.store, time.Now().Add(time.Minute)}
		id := r.enqueue(tasks.Image{Prompt: "a picture"})
		r.work()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		answer := "default/tasks/" + id + "/answer.json"
		require.Contains(t, r.keys("default/tasks/"), answer)
		require.NotEmpty(t, r.keys("default/pending/"), "it comes again")
		time.Sleep(45 * time.Second)
		require.NotEmpty(t, r.keys("default/pending/"))
		require.False(t, r.redis.HExists(t.Context(), taskstate.LiveKey(id), "holder").Val())
		time.Sleep(2 * time.Minute)
		require.NotContains(t, r.keys("default/tasks/"), answer)
		require.Empty(t, r.keys("default/pending/"))
		require.Len(t, r.ai.Requests(), 1)
	})
}

// Redis lost its record of a task's calls, and the deadline has passed. The checkpoints
// of an earlier run are deleted all the same.
func TestWhatWasStoredForATaskThatWasRecoveredTooLateGoes(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Image{Prompt: "late"}, tasks.WithTimeToLive(2*time.Second))
		r.put("default/tasks/"+id+"/answer.json", "{}")
		r.put("default/tasks/"+id+"/image.png", "half")
		r.server.Wipe()
		time.Sleep(time.Minute)
		r.work()
		require.Equal(t, tasks.CodeDeadlineExceeded, r.wait(id).Error.Code)
		time.Sleep(10 * time.Second)
		for _, key := range r.keys("default/tasks/") {
			require.NotContains(t, key, "answer.json")
			require.NotContains(t, key, "image.png")
		}
	})
}

// lateRegistration delays the commands with which a worker registers its claims again, and
// calls a func when the first of them is on its way.
type lateRegistration struct {
	meanwhile func()
	once      sync.Once
}

func (l *lateRegistration) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *lateRegistration) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (l *lateRegistration) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if strings.Contains(fmt.Sprint(cmd.Args()...), "Writes a claim again") {
				l.once.Do(l.meanwhile)
				time.Sleep(time.Second)
				break
			}
		}
		return next(ctx, cmds)
	}
}

// A regression: claims are registered again after Redis has lost its memory. A task that was
// given back while the registration was on its way looked as if it were running for as long as
// its worker lived: others did not take it, and a batch that waited for it never ended.
func TestAClaimThatIsRegisteredLateDoesNotOutliveItsRun(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindImage}
		r.ai.Fault(workersaitest.Fault{Hang: true, To: 1}) // until Heal, which breaks the call off
		var registered atomic.Bool
		r.redis.AddHook(&lateRegistration{meanwhile: func() { registered.Store(true); r.ai.Heal() }})
		r.work()
		id := r.enqueue(tasks.Image{Prompt: "hi"}, tasks.WithDurability(tasks.InRedis))
		time.Sleep(10 * time.Second)
		require.Len(t, r.ai.Requests(), 1)
		r.server.Wipe()
		time.Sleep(40 * time.Second)
		require.True(t, registered.Load())
		require.Len(t, r.ai.Requests(), 1, "only Redis knew the task")
		require.Empty(t, r.redis.HGet(t.Context(), taskstate.LiveKey(id), "holder").Val())
	})
}
