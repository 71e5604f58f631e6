package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// sickBucket is a store that refuses its writes, or everything, while told to. It counts
// the requests.
type sickBucket struct {
	storage.Store
	writes, reads atomic.Bool // refused while true
	only          string      // refuse only writes to keys that contain this; empty means all
	asked         atomic.Int64
}

func (s *sickBucket) refuse(write bool, key string) error {
	s.asked.Add(1)
	if write && s.writes.Load() && strings.Contains(key, s.only) || !write && s.reads.Load() {
		return errors.New("403 QuotaExceeded")
	}
	return nil
}

func (s *sickBucket) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.refuse(true, key); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body, contentType)
}

func (s *sickBucket) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if err := s.refuse(true, key); err != nil {
		return err
	}
	return s.Store.Create(ctx, key, body, contentType)
}

func (s *sickBucket) Delete(ctx context.Context, key string) error {
	if err := s.refuse(true, key); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key)
}

func (s *sickBucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := s.refuse(false, key); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, key)
}

func (s *sickBucket) Head(ctx context.Context, key string) (storage.Info, error) {
	if err := s.refuse(false, key); err != nil {
		return storage.Info{}, err
	}
	return s.Store.Head(ctx, key)
}

func (s *sickBucket) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if err := s.refuse(false, prefix); err != nil {
			yield(storage.Info{}, err)
			return
		}
		s.Store.List(ctx, prefix, after)(yield)
	}
}

// onSickBucket runs a story of one kind on a bucket that can refuse requests.
func onSickBucket(t *testing.T, kind tasks.Kind, story func(t *testing.T, r *rig, s *sickBucket)) {
	t.Helper()
	alone(t, func(t *testing.T, r *rig) {
		s := &sickBucket{Store: r.store}
		r.cfg.Store, r.cfg.Kinds = s, []tasks.Kind{kind}
		story(t, r, s)
	})
}

func TestABucketThatRefusesWritesForHoursCostsNoSecondCall(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	onSickBucket(t, tasks.KindText, func(t *testing.T, r *rig, s *sickBucket) {
		r.work()
		r.wait(r.enqueue(tasks.Text{Prompt: "warm"}))
		r.ai.Fault(workersaitest.Fault{Contains: "paid", Delay: 5 * time.Second})
		paid := r.enqueue(tasks.Text{Prompt: "paid"})
		time.Sleep(time.Second)
		s.writes.Store(true)
		time.Sleep(time.Minute)
		var waiting []string
		for i := range 50 {
			waiting = append(waiting, r.enqueue(tasks.Text{Prompt: fmt.Sprint("waits ", i)}, tasks.WithDurability(tasks.InRedis)))
		}
		time.Sleep(3 * time.Hour)
		require.Equal(t, 2, r.sent(), "nothing is paid for that cannot be stored")
		s.writes.Store(false)
		healed := time.Now()
		result := r.wait(paid)
		require.Equal(t, []int{1, 0, 1}, []int{result.Usage.Calls, result.Usage.Unsettled, result.Attempts})
		for _, id := range waiting {
			result := r.wait(id)
			require.Equal(t, tasks.Completed, result.Status)
			require.Equal(t, []int{1, 1}, []int{result.Usage.Calls, result.Attempts}, "waiting costs no attempt")
		}
		require.Less(t, time.Since(healed), 3*time.Minute)
		require.Equal(t, 52, r.sent())
	})
}

func TestABucketThatRefusesEverythingIsNotAskedInALoop(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	onSickBucket(t, tasks.KindText, func(t *testing.T, r *rig, s *sickBucket) {
		for i := range 300 {
			r.enqueue(tasks.Text{Prompt: fmt.Sprint("p", i)}, tasks.WithDurability(tasks.InRedis), tasks.WithLane(tasks.Bulk))
		}
		time.Sleep(15 * time.Minute) // old enough for the bucket to be asked for results of earlier runs
		s.writes.Store(true)
		s.reads.Store(true)
		r.work()
		time.Sleep(10 * time.Second)
		before, commands := s.asked.Load(), r.server.Commands()
		time.Sleep(10 * time.Minute)
		require.Less(t, s.asked.Load()-before, int64(10*20), "requests to the bucket in ten minutes")
		require.Less(t, r.server.Commands()-commands, 10*60*250, "commands to Redis in ten minutes")
		require.Zero(t, r.sent())
	})
}

func TestAStoppingWorkerHoldsAPaidAnswerForTwoMinutes(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	onSickBucket(t, tasks.KindText, func(t *testing.T, r *rig, s *sickBucket) {
		r.work()
		r.wait(r.enqueue(tasks.Text{Prompt: "warm"}))
		time.Sleep(time.Minute)
		r.ai.Fault(workersaitest.Fault{Contains: "paid", Delay: 5 * time.Second})
		id := r.enqueue(tasks.Text{Prompt: "paid"})
		time.Sleep(time.Second)
		s.writes.Store(true)
		time.Sleep(time.Hour)
		stopped := time.Now()
		r.stop()
		require.InDelta(t, 120, time.Since(stopped).Seconds(), 20)
		s.writes.Store(false)
		r.work()
		result := r.wait(id)
		require.Equal(t, []int{2, 0}, []int{result.Usage.Calls, result.Usage.Unsettled}, "both calls have a price")
		r.explains(result)
	})
}

// sent returns how many calls the emulator has received.
func (r *rig) sent() int { return len(r.ai.Requests()) }

// explains compares the costs stated in results with the provider's count.
func (r *rig) explains(results ...*tasks.Result) {
	r.t.Helper()
	billed, explained := 0.0, 0.0
	for _, q := range r.ai.Requests() {
		if q.Billed && !strings.Contains(string(q.Body), "warm") {
			billed += q.Neurons
		}
	}
	for _, result := range results {
		explained += result.Usage.Neurons
	}
	require.Positive(r.t, billed)
	require.InDelta(r.t, billed, explained, 0.001+billed/1e4, "neurons that the results explain")
}

func TestAnObjectThatTheBucketRefusesIsPaidForTwiceAtMost(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	onSickBucket(t, tasks.KindText, func(t *testing.T, r *rig, s *sickBucket) {
		r.work()
		r.wait(r.enqueue(tasks.Text{Prompt: "warm"}))
		s.only = "/result.json"
		s.writes.Store(true)
		id := r.enqueue(tasks.Text{Prompt: "too long a name, say"})
		time.Sleep(25 * time.Minute)
		require.LessOrEqual(t, r.sent(), 3)
		s.writes.Store(false)
		result := r.wait(id)
		require.NotNil(t, result.Error)
		require.Equal(t, tasks.CodeResultNotStored, result.Error.Code)
		require.Contains(t, result.Error.Message, "QuotaExceeded")
		r.explains(result)
	})
}

// Failures that cannot be stored cause no further calls.
func TestATaskThatUsedUpItsAttemptsIsNotCalledForAgain(t *testing.T) {
	t.Parallel()
	onSickBucket(t, tasks.KindText, func(t *testing.T, r *rig, s *sickBucket) {
		spec, _ := tasks.SpecOf(tasks.KindText)
		r.ai.Fault(workersaitest.Fault{Kind: "text", Status: http.StatusInternalServerError, Body: "oops"})
		s.only = "/task.json"
		s.writes.Store(true)
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(20 * time.Minute)
		require.Equal(t, spec.Attempts, r.sent())
		s.writes.Store(false)
		require.Equal(t, tasks.CodeAttemptsExhausted, r.wait(id).Error.Code)
		require.Equal(t, spec.Attempts, r.sent())
	})
}

// The number of possibly paid calls is capped, for any reason of further runs.
func TestThePaidCallsOfATaskAreCapped(t *testing.T) {
	t.Parallel()
	for name, payload := range map[tasks.Kind]tasks.Payload{
		tasks.KindText: tasks.Text{Prompt: "hi"}, tasks.KindEmbedding: tasks.Embedding{Texts: []string{"hi"}},
	} {
		alone(t, func(t *testing.T, r *rig) {
			spec, _ := tasks.SpecOf(name)
			most := 3 * spec.Attempts
			r.cfg.Kinds = []tasks.Kind{name}
			id := r.enqueue(payload)
			// Earlier runs had all their attempts refunded.
			require.NoError(t, r.redis.HSet(t.Context(), taskstate.LiveKey(id), "attempts", most, "unpaid", most, "calls", most+7, "settled", 7).Err())
			r.work()
			result := r.wait(id)
			require.NotNil(t, result.Error)
			require.Equal(t, tasks.CodeAttemptsExhausted, result.Error.Code)
			require.Contains(t, result.Error.Message, fmt.Sprint(most))
			require.Zero(t, r.sent())

			id = r.enqueue(payload)
			require.NoError(t, r.redis.HSet(t.Context(), taskstate.LiveKey(id), "attempts", most, "unpaid", most, "calls", most+6, "settled", 7).Err())
			require.Equal(t, tasks.Completed, r.wait(id).Status, "one is left")
		})
	}
}

// The known price of a cut answer is counted, in a task that completes later and in one
// that fails. An answer without a known price is unsettled.
func TestWhatALostAnswerCostIsCounted(t *testing.T) {
	t.Parallel()
	for kind, payload := range map[tasks.Kind]tasks.Payload{
		tasks.KindText:        tasks.Text{Prompt: "hi"},
		tasks.KindImage:       tasks.Image{Prompt: "a mill"},
		tasks.KindTranslation: tasks.Translation{Text: "hi", TargetLang: "es"},
		tasks.KindEmbedding:   tasks.Embedding{Texts: []string{"hi"}},
	} {
		alone(t, func(t *testing.T, r *rig) {
			r.cfg.Kinds = []tasks.Kind{kind}
			r.ai.Fault(workersaitest.Fault{To: 2, Cut: true, CutAt: 10})
			r.work()
			completed := r.wait(r.enqueue(payload))
			require.Equal(t, tasks.Completed, completed.Status)
			require.Equal(t, []int{3, 0}, []int{completed.Usage.Calls, completed.Usage.Unsettled})
			r.explains(completed)

			r.ai.Fault(workersaitest.Fault{Cut: true, CutAt: 10})
			failed := r.wait(r.enqueue(payload))
			require.Equal(t, tasks.Failed, failed.Status)
			require.Zero(t, failed.Usage.Unsettled)
			r.explains(completed, failed)
		})
	}
}

func TestTheCostOfACallThatManyShareIsSharedWhetherItsAnswerCameOrNot(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.ai.Fault(workersaitest.Fault{To: 1, Cut: true, CutAt: 10})
		var ids []string
		for i := range 20 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{strings.Repeat("word ", 3*i+1)}}))
		}
		r.work()
		var results []*tasks.Result
		for _, id := range ids {
			result := r.wait(id)
			require.Zero(t, result.Usage.Unsettled)
			results = append(results, result)
		}
		r.explains(results...)
	})
}

// The stored parts of a large embedding are counted once, even if the task fails before
// it has read them again.
func TestTheStoredPartsOfATaskThatFailsAreCounted(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		var texts []string
		for i := range 250 {
			texts = append(texts, fmt.Sprint("text ", i))
		}
		r.ai.Fault(workersaitest.Fault{Contains: "text 249", Code: 3021, Header: http.Header{"Retry-After": {"600"}}})
		id := r.enqueue(tasks.Embedding{Texts: texts}, tasks.WithTimeToLive(5*time.Minute))
		r.work()
		result := r.wait(id)
		require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
		require.Zero(t, result.Usage.Unsettled)
		r.explains(result)
		time.Sleep(time.Minute)
		for _, key := range r.keys("default/tasks/" + id) {
			require.NotContains(t, key, "answer", "nothing that only an unfinished task needs")
		}
	})
}

// A picture with a stored checkpoint but a missing file is paid for again. Both calls are
// counted once each, however often the bucket fails.
func TestAStoredAnswerThatCannotBeUsedIsCountedOnce(t *testing.T) {
	t.Parallel()
	onSickBucket(t, tasks.KindImage, func(t *testing.T, r *rig, s *sickBucket) {
		r.work()
		r.wait(r.enqueue(tasks.Image{Prompt: "warm"}))
		s.only = "/image."
		s.writes.Store(true)
		id := r.enqueue(tasks.Image{Prompt: "a mill"})
		time.Sleep(4 * time.Minute)
		require.Contains(t, r.keys("default/tasks/"+id), "default/tasks/"+id+"/answer.json")
		s.writes.Store(false)
		result := r.wait(id)
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, []int{2, 0}, []int{result.Usage.Calls, result.Usage.Unsettled})
		r.explains(result)
	})
}

// shardAway refuses commands on the record of one task, as a cluster does while the
// master of its slot is down. It also counts the pipelines with other tasks' commands.
type shardAway struct {
	id   atomic.Pointer[string]
	with atomic.Int64
}

func (h *shardAway) DialHook(next redis.DialHook) redis.DialHook { return next }

// refused reports whether a command counts a call of the task.
func (h *shardAway) refused(cmd redis.Cmder) bool {
	args := cmd.Args()
	id := h.id.Load()
	return id != nil && len(args) == 11 && strings.HasPrefix(cmd.Name(), "eval") && args[3] == taskstate.LiveKey(*id)
}

var errShardAway = refusal("CLUSTERDOWN Hash slot not served")

func (h *shardAway) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if h.refused(cmd) {
			cmd.SetErr(errShardAway)
			return errShardAway
		}
		return next(ctx, cmd)
	}
}

func (h *shardAway) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		served := slices.DeleteFunc(slices.Clone(cmds), h.refused)
		if len(served) == len(cmds) {
			return next(ctx, cmds)
		}
		if len(served) > 0 {
			h.with.Add(1)
			_ = next(ctx, served)
		}
		for _, cmd := range cmds {
			if h.refused(cmd) {
				cmd.SetErr(errShardAway)
			}
		}
		return errShardAway
	}
}

func TestACallThatIsNotSentIsNotCountedForAnyOfThoseInIt(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		shard := &shardAway{}
		r.redis.AddHook(shard)
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.paced(60)
		var ids []string
		for i := range 30 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("text ", i)}}))
		}
		shard.id.Store(&ids[7])
		r.work()
		time.Sleep(10 * time.Second)
		require.Positive(t, shard.with.Load(), "it was in a call with others")
		shard.id.Store(nil)
		for _, id := range ids {
			result := r.wait(id)
			require.Equal(t, tasks.Completed, result.Status)
			require.Equal(t, []int{1, 0, 1}, []int{result.Usage.Calls, result.Usage.Unsettled, result.Attempts})
		}
	})
}

// Another worker claims one entry of a group before the call. The other entries are
// counted for the call they are finally part of, and for no other.
func TestOneThatWasTakenAwayCostsThoseWithItNothing(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.paced(20)
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		r.work()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"the first passes"}}))
		var ids []string
		for i := range 3 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("text ", i)}}))
		}
		time.Sleep(500 * time.Millisecond) // they wait for a permit
		require.NoError(t, r.redis.HSet(t.Context(), taskstate.LiveKey(ids[1]), "holder", "another").Err())
		require.NoError(t, r.redis.Set(t.Context(), "neuronmill:worker:another", 1, time.Minute).Err())
		for _, id := range []string{ids[0], ids[2], ids[1]} {
			result := r.wait(id)
			require.Equal(t, tasks.Completed, result.Status)
			require.Equal(t, []int{1, 0, 1}, []int{result.Usage.Calls, result.Usage.Unsettled, result.Attempts}, id)
		}
	})
}

// A call that must not be sent releases its permit.
func TestACallThatIsNotSentLeavesNothingInFlight(t *testing.T) {
	onSickBucket(t, tasks.KindText, func(t *testing.T, r *rig, s *sickBucket) {
		full := &refuses{word: "OOM command not allowed when used memory > 'maxmemory'.", only: `"calls", 1`}
		full.on(true)
		r.redis.AddHook(full)
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(time.Minute)
		require.Zero(t, r.sent())
		free := false // between two of the task's tries
		for range 3000 {
			states, err := r.cfg.Gate.States(t.Context(), "@cf/zai-org/glm-4.7-flash")
			require.NoError(t, err)
			free = free || states[0].InFlight == 0
			time.Sleep(100 * time.Millisecond)
		}
		require.True(t, free, "permits are not released")
		full.on(false)
		require.Equal(t, tasks.Completed, r.wait(id).Status)
	})
}

// Redis refuses the count of a call that has its permit. The call waits with its permit, or
// gives it back.
func TestACallThatRedisDoesNotCountSpendsNoSecondPermit(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]time.Duration{"briefly": 5 * time.Second, "long": time.Minute} {
		alone(t, func(t *testing.T, r *rig) {
			misconf := &refuses{word: "MISCONF Redis is configured to save RDB snapshots", only: `"calls", 1`}
			misconf.on(true)
			r.redis.AddHook(misconf)
			r.work()
			id := r.enqueue(tasks.Text{Prompt: "hi"})
			time.Sleep(away)
			require.Zero(t, r.sent(), name)
			misconf.on(false)
			require.Equal(t, tasks.Completed, r.wait(id).Status)
			require.Equal(t, 1, r.permits(texter), name)
		})
	}
}

// permits returns how many calls the gate of a model has let through.
func (r *rig) permits(model string) int {
	r.t.Helper()
	states, err := r.cfg.Gate.States(r.t.Context(), model)
	require.NoError(r.t, err)
	return states[0].Calls
}

// The bucket refuses writes while tasks wait together for one call.
func TestAGroupSpendsNoPermitWhileTheBucketTakesNoResults(t *testing.T) {
	t.Parallel()
	onSickBucket(t, tasks.KindEmbedding, func(t *testing.T, r *rig, s *sickBucket) {
		r.paced(6)
		r.ai.Fault(workersaitest.Fault{Contains: "first", Delay: 5 * time.Second})
		r.work()
		ids := []string{r.enqueue(tasks.Embedding{Texts: []string{"first"}})}
		time.Sleep(time.Second)
		ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{"one"}}), r.enqueue(tasks.Embedding{Texts: []string{"two"}}))
		time.Sleep(time.Second) // they wait for a permit
		s.writes.Store(true)
		time.Sleep(5 * time.Minute)
		require.Equal(t, 1, r.permits(embedder))
		s.writes.Store(false)
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		require.Equal(t, r.sent(), r.permits(embedder))
	})
}

// The reply to the count of a first call is lost. The call is not sent, and the final
// count leaves it out.
func TestACountWithoutAReplyIsTakenBack(t *testing.T) {
	fact(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		met := r.loseOne(taskstate.LiveKey(id), `"calls", 1`)
		r.work()
		result := r.wait(id)
		require.True(t, met.Load())
		require.Equal(t, []int{1, 0, 1}, []int{result.Usage.Calls, result.Usage.Unsettled, result.Attempts})
	})
}
