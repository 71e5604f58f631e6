package engine_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/maintenance"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// worker starts another worker with other settings. The returned func stops it.
func (r *rig) worker(change func(*rig)) (stop func()) {
	w := *r
	change(&w)
	w.work()
	return w.stop
}

// Housekeeping covers all kinds: the leader also recovers tasks of kinds that its own
// worker does not run.
func TestWorkersOfDifferentKindsBringBackEachOthersTasks(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		slow, fast := "@cf/deepseek-ai/deepseek-v4-flash-0731", texter
		defer r.worker(func(w *rig) { w.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding} })()
		time.Sleep(5 * time.Second)
		defer r.worker(func(w *rig) { w.cfg.Kinds = []tasks.Kind{tasks.KindText} })()
		var ids []string
		for i := range 20 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("slow ", i)}, tasks.WithModel(slow), tasks.WithLane(tasks.Bulk), tasks.WithTimeToLive(30*time.Minute)))
		}
		ids = append(ids, r.enqueue(tasks.Text{Prompt: "fast"}, tasks.WithModel(fast), tasks.WithLane(tasks.Bulk), tasks.WithTimeToLive(30*time.Minute)))
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
	})
}

func TestTheLeaderLooksAfterKindsThatItDoesNotTake(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		expired := r.enqueue(tasks.Text{Prompt: "late"}, tasks.WithTimeToLive(30*time.Second))
		cancelled := r.enqueue(tasks.Text{Prompt: "unwanted"})
		archived := r.enqueue(tasks.Text{Prompt: "archived"})
		crashed, stranded := r.enqueue(tasks.Text{Prompt: "crashed"}), r.enqueue(tasks.Text{Prompt: "stranded"})
		r.died("text:interactive", crashed)
		r.died("text:interactive", stranded)
		require.NoError(t, r.redis.ZRem(t.Context(), textQueue+"lease", stranded).Err())
		require.NoError(t, r.client.Cancel(t.Context(), cancelled))
		require.NoError(t, asynq.NewInspectorFromRedisClient(r.redis).ArchiveTask("text:interactive", archived))
		r.work()
		time.Sleep(5 * time.Minute)
		for id, code := range map[string]string{expired: "deadline_exceeded", cancelled: "cancelled", archived: "archived"} {
			require.Equal(t, 1, r.ended([]string{id}), code)
			require.Equal(t, code, r.wait(id).Error.Code)
		}
		for _, id := range []string{crashed, stranded} {
			require.Equal(t, "pending", r.redis.HGet(t.Context(), textQueue+"t:"+id, "state").Val())
		}
	})
}

// listings counts the listings of pending records.
type listings struct {
	storage.Store
	n atomic.Int64
}

func (s *listings) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	if strings.HasSuffix(prefix, "/pending/") {
		s.n.Add(1)
	}
	return s.Store.List(ctx, prefix, after)
}

func TestAFleetComparesBucketAndQueueAsOftenAsOneWorker(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	for _, size := range []int{1, 4} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				s := &listings{Store: r.store}
				r.enqueue(tasks.Text{Prompt: "later"}, tasks.WithDelay(24*time.Hour))
				for range size {
					defer r.worker(func(w *rig) {
						w.cfg.Store, w.cfg.Kinds = s, []tasks.Kind{tasks.KindText}
					})()
				}
				time.Sleep(20 * time.Minute)
				require.InDelta(t, 20, s.n.Load(), 2)
			})
		})
	}
}

// The lists in which asynq keeps its servers lose the entries of killed processes.
func TestServersOfDeadProcessesAreForgotten(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		past := redisZ(time.Now().Add(-time.Hour), "asynq:servers:{host:1:dead}")
		require.NoError(t, r.redis.ZAdd(t.Context(), "asynq:servers", past).Err())
		require.NoError(t, r.redis.ZAdd(t.Context(), "asynq:workers", past).Err())
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.work()
		time.Sleep(10 * time.Second)
		require.NotContains(t, r.redis.ZRange(t.Context(), "asynq:servers", 0, -1).Val(), past.Member)
		require.NotContains(t, r.redis.ZRange(t.Context(), "asynq:workers", 0, -1).Val(), past.Member)
		require.NotEmpty(t, r.redis.ZRange(t.Context(), "asynq:servers", 0, -1).Val(), "living ones stay")
		require.NotEmpty(t, r.redis.Get(t.Context(), maintenance.LockKey).Val())
	})
}

// deferred is a queue with deferred tasks of one model, whose gate is closed. The queue
// also has tasks of another model.
func deferred(t *testing.T, ttl time.Duration, story func(t *testing.T, r *rig, slow string, ids []string)) {
	alone(t, func(t *testing.T, r *rig) {
		slow := "@cf/deepseek-ai/deepseek-v4-flash-0731"
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		require.NoError(t, r.cfg.Gate.Set(t.Context(), slow, 0))
		r.work()
		var ids []string
		for i := range 50 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("slow ", i)}, tasks.WithModel(slow), tasks.WithLane(tasks.Bulk), tasks.WithTimeToLive(ttl)))
		}
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Text{Prompt: "fast"}, tasks.WithModel(texter), tasks.WithLane(tasks.Bulk))).Status)
		time.Sleep(5 * time.Second)
		require.EqualValues(t, len(ids), r.redis.ZCard(t.Context(), queue.DeferredKey("text:bulk", slow)).Val())
		story(t, r, slow, ids)
	})
}

func TestDeferredEntriesDoNotOutliveTheirTasks(t *testing.T) {
	t.Parallel()
	deferred(t, 5*time.Minute, func(t *testing.T, r *rig, slow string, ids []string) {
		for _, id := range ids {
			require.Equal(t, tasks.CodeDeadlineExceeded, r.wait(id).Error.Code)
		}
		time.Sleep(2 * time.Minute)
		require.Zero(t, r.redis.Exists(t.Context(), queue.DeferredKey("text:bulk", slow), queue.ModelsKey("text:bulk"), "asynq:{text:bulk}:retry").Val())
	})
}

// A deferred entry whose task no longer exists is dropped even while its gate stays
// closed.
func TestADeferredEntryWithoutATaskIsDropped(t *testing.T) {
	deferred(t, time.Hour, func(t *testing.T, r *rig, slow string, ids []string) {
		require.NoError(t, asynq.NewInspectorFromRedisClient(r.redis).DeleteTask("text:bulk", ids[7]))
		time.Sleep(time.Minute)
		key := queue.DeferredKey("text:bulk", slow)
		require.NotContains(t, r.redis.ZRange(t.Context(), key, 0, -1).Val(), ids[7])
		require.EqualValues(t, len(ids)-1, r.redis.ZCard(t.Context(), key).Val())
	})
}

// Deferred tasks wait until their gate has room. They are not re-admitted on a timer and
// deferred again.
func TestDeferredTasksDoNotComeBackByTheClock(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	deferred(t, 4*time.Hour, func(t *testing.T, r *rig, slow string, ids []string) {
		for range 3 * 60 {
			time.Sleep(time.Minute)
			require.Zero(t, r.redis.LLen(t.Context(), "asynq:{text:bulk}:pending").Val()+r.redis.LLen(t.Context(), "asynq:{text:bulk}:active").Val())
		}
		require.NoError(t, r.cfg.Gate.Reset(t.Context(), slow))
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		calls := r.calls(slow)
		for i, q := range calls {
			require.InDelta(t, i, number(q.Body), 8, "in the order of acceptance")
		}
	})
}

// A lost list of deferred tasks is rebuilt.
func TestDeferredTasksThatLostTheirListComeBack(t *testing.T) {
	deferred(t, 4*time.Hour, func(t *testing.T, r *rig, slow string, ids []string) {
		require.NoError(t, r.redis.Del(t.Context(), queue.DeferredKey("text:bulk", slow), queue.ModelsKey("text:bulk")).Err())
		time.Sleep(2 * time.Minute)
		require.NoError(t, r.cfg.Gate.Reset(t.Context(), slow))
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
	})
}

// A queue counts as shared while it has tasks of several models, and not longer.
func TestAQueueIsNoLongerSharedOnceAStrayModelHasGone(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.work()
		r.enqueue(tasks.Text{Prompt: "stray"}, tasks.WithModel("@cf/meta/llama-3.2-1b-instruct"))
		slow := "@cf/deepseek-ai/deepseek-v4-flash-0731"
		for i := range 90 {
			r.enqueue(tasks.Text{Prompt: fmt.Sprint("p", i)}, tasks.WithModel(slow))
			time.Sleep(time.Second)
		}
		require.Equal(t, []string{slow}, r.redis.SMembers(t.Context(), queue.ModelsKey("text:interactive")).Val())
		// A task that was enqueued by another path is noticed.
		require.NoError(t, r.redis.Del(t.Context(), queue.ModelsKey("text:interactive")).Err())
		time.Sleep(15 * time.Second)
		require.Equal(t, []string{slow}, r.redis.SMembers(t.Context(), queue.ModelsKey("text:interactive")).Val())
	})
}

// listed counts the entries that are put into the list of failures.
type listed struct {
	storage.Store
	n atomic.Int64
}

func (s *listed) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	if strings.Contains(key, "/dead/") {
		s.n.Add(1)
	}
	return s.Store.Put(ctx, key, body, contentType)
}

// A task that has its result and expires in the queue is no failure, not for a moment.
func TestATaskThatExpiresBesideItsResultIsNotListedAsFailed(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		s := &listed{Store: r.store}
		r.cfg.Kinds, r.cfg.Store = []tasks.Kind{tasks.KindEmbedding}, s
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(10*time.Second))
		r.put(objects.ResultKey("default", id), `{"id":"`+id+`","status":"completed"}`)
		r.work()
		time.Sleep(time.Minute)
		require.Zero(t, r.redis.Exists(t.Context(), textQueue+"t:"+id).Val(), "it is taken out of the queue")
		require.Zero(t, s.n.Load())
		require.Equal(t, []string{objects.ResultKey("default", id)}, r.keys("default/tasks/"))
		require.Empty(t, r.keys("default/pending/"))
	})
}

// slowListings is a bucket that lists pending records slowly.
type slowListings struct{ listings }

func (s *slowListings) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	if strings.HasSuffix(prefix, "/pending/") {
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
	}
	return s.listings.List(ctx, prefix, after)
}

// The reconciler recovers tasks soon after Redis lost data, even with a long interval.
func TestABreakOfRedisIsFollowedByAComparisonOfBucketAndQueue(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		s := &slowListings{listings{Store: r.store}}
		r.cfg.Store, r.cfg.Kinds = s, []tasks.Kind{tasks.KindText}
		id := r.enqueue(tasks.Text{Prompt: "later"}, tasks.WithDelay(24*time.Hour))
		r.work()
		time.Sleep(15 * time.Minute)
		require.LessOrEqual(t, s.n.Load(), int64(3), "ten times its length apart")
		require.Positive(t, s.n.Load())
		r.link.Cut()
		r.server.Wipe()
		r.link.Mend()
		time.Sleep(3 * time.Minute)
		require.EqualValues(t, 1, r.redis.Exists(t.Context(), textQueue+"t:"+id).Val())
	})
}

// A run of the reconciler that finds lost tasks leaves those to the next one whose records
// have just changed. That one follows soon, however long the first took.
func TestALostTaskThatWasTooYoungForOneComparisonIsFoundByTheNext(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Store, r.cfg.Kinds = &slowListings{listings{Store: r.store}}, []tasks.Kind{tasks.KindText}
		r.enqueue(tasks.Text{Prompt: "lost"}, tasks.WithDelay(24*time.Hour))
		cancelled := r.enqueue(tasks.Text{Prompt: "lost and cancelled"}, tasks.WithDelay(24*time.Hour))
		r.work()
		time.Sleep(15 * time.Minute)
		r.link.Cut()
		r.server.Wipe()
		r.link.Mend()
		time.Sleep(40 * time.Second)
		require.NoError(t, r.client.Cancel(t.Context(), cancelled))
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 1, r.redis.Exists(t.Context(), textQueue+"t:"+cancelled).Val())
	})
}

// Right after a wipe the owners have not yet registered their tasks again, so these must
// not be delivered again yet.
func TestARunningTaskIsNotPutBackRightAfterAWipe(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.ai.Fault(workersaitest.Fault{Delay: 4 * time.Minute})
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(2*time.Minute - 300*time.Millisecond) // just before the next check of records
		r.server.Wipe()
		for range 90 {
			time.Sleep(100 * time.Millisecond)
			require.Zero(t, r.redis.Exists(t.Context(), textQueue+"t:"+id).Val())
		}
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Len(t, r.ai.Requests(), 1)
	})
}

// While the account is closed no task gets a permit. So tasks wait in the queue and keep
// their order.
func TestAClosedAccountDefersOnlyWhatItRefused(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		time.Sleep(23 * time.Hour)
		r.ai.Fault(workersaitest.Fault{Kind: "text", To: 1, Code: 4006})
		r.work()
		refused := r.enqueue(tasks.Text{Prompt: "refused"})
		time.Sleep(5 * time.Second)
		ids := []string{refused}
		for i := range 20 {
			model := []string{texter, "@cf/meta/llama-3.2-1b-instruct"}[i%2]
			ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("slow ", i)}, tasks.WithModel(model)))
		}
		time.Sleep(10 * time.Minute)
		parked := r.redis.ZRange(t.Context(), queue.DeferredKey("text:interactive", texter), 0, -1).Val()
		require.Equal(t, []string{refused}, parked)
		require.Zero(t, r.redis.Exists(t.Context(), queue.DeferredKey("text:interactive", "@cf/meta/llama-3.2-1b-instruct")).Val())
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
	})
}

// Redis loses the end of what it wrote when its machine dies. A task can then be in no list
// of its queue, where no worker would find it and nothing would remove it.
func TestATaskInNoListOfItsQueueIsFound(t *testing.T) {
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		waiting := r.enqueue(tasks.Text{Prompt: "waiting"}, tasks.WithDurability(tasks.InRedis))
		require.NoError(t, r.redis.LRem(t.Context(), textQueue+"pending", 1, waiting).Err())
		left := r.enqueue(tasks.Text{Prompt: "completed"})
		message := r.redis.HGetAll(t.Context(), textQueue+"t:"+left).Val()
		r.work()
		require.Equal(t, tasks.Completed, r.wait(waiting).Status)
		require.Equal(t, tasks.Completed, r.wait(left).Status)

		calls := r.sent()
		require.NoError(t, r.redis.HSet(t.Context(), textQueue+"t:"+left, message).Err())
		require.NoError(t, r.redis.HSet(t.Context(), textQueue+"t:t_tombstone", "state", "pending", "msg", "x", "ended", 1).Err())
		require.NoError(t, r.redis.HSet(t.Context(), textQueue+"t:t_half", "state", "active").Err())
		time.Sleep(2 * time.Minute)
		for _, id := range []string{left, "t_tombstone", "t_half"} {
			require.Zero(t, r.redis.Exists(t.Context(), textQueue+"t:"+id).Val(), id)
		}
		require.Equal(t, calls, r.sent(), "a completed task is not paid for again")
	})
}
