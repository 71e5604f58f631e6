package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestADamagedMessageDoesNotStopTheRecoveryOfOthers(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		at := t.Context()
		recorded, lone := r.enqueue(tasks.Text{Prompt: "a"}), r.enqueue(tasks.Text{Prompt: "b"}, tasks.WithDurability(tasks.InRedis))
		other := r.enqueue(tasks.Text{Prompt: "c"})
		for _, id := range []string{recorded, lone, other} {
			r.died("text:interactive", id)
			require.NoError(t, r.redis.Del(at, taskstate.LiveKey(id)).Err())
		}
		for _, id := range []string{recorded, lone} {
			require.NoError(t, r.redis.HSet(at, textQueue+"t:"+id, "msg", "\x0a\xff nonsense").Err())
		}
		time.Sleep(time.Minute)
		r.work()
		require.Equal(t, tasks.Completed, r.wait(other).Status)
		require.Equal(t, tasks.Completed, r.wait(recorded).Status, "its record is whole")
		require.Equal(t, tasks.CodePayloadInvalid, r.wait(lone).Error.Code)
		require.EqualValues(t, 1, r.redis.Exists(at, "neuronmill:corrupt:{text:interactive}:"+lone).Val(), "kept for a person")
		require.Zero(t, r.redis.LLen(at, textQueue+"active").Val())
	})
}

func TestAnActiveTaskWithoutALeaseComesBack(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		at := t.Context()
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithDurability(tasks.InRedis))
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

// TestATaskWithALeaseThatIsNotActiveComesBack: the state comes from an append-only file
// that was cut within the transaction that acknowledges a task, and then read twice.
func TestATaskWithALeaseThatIsNotActiveComesBack(t *testing.T) {
	for name, ended := range map[string]bool{"and ends": false, "and goes when it has ended": true} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				at := t.Context()
				id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithDurability(tasks.InRedis))
				r.died("text:interactive", id)
				require.EqualValues(t, 1, r.redis.LRem(at, textQueue+"active", 0, id).Val())
				if ended {
					r.redis.HSet(at, taskstate.LiveKey(id), "ended", 1)
					r.put("default/tasks/"+id+"/result.json", `{"id":"`+id+`","status":"completed"}`)
				}
				r.work()
				time.Sleep(2 * time.Minute)
				require.Len(t, r.keys("default/tasks/"+id+"/result.json"), 1)
				require.Zero(t, r.redis.Exists(at, textQueue+"t:"+id).Val(), "its message stays")
				require.Equal(t, ended, len(r.ai.Requests()) == 0)
			})
		})
	}
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
		require.Equal(t, tasks.CodeArchived, result.Error.Code)
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
		require.Equal(t, tasks.CodePayloadInvalid, result.Error.Code)
		time.Sleep(time.Minute)
		require.Empty(t, r.keys("acme-two/pending/"))
	})
}
