package taskstate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestAClaimIsRegisteredAgainUnlessItWasTakenOver: a worker whose heartbeat had expired
// registers its claims again, also when Redis lost nothing. A task that another worker has
// taken over meanwhile would be paid for twice. After a failover the older claim is the one
// that Redis brought back.
func TestAClaimIsRegisteredAgainUnlessItWasTakenOver(t *testing.T) {
	r := redistest.New(t).Client(nil)
	nothing := func(redis.Pipeliner) {}
	for name, c := range map[string]struct {
		claimed, now string // the names of Redis' memory at the other's claim and at the registration
		stays        bool
	}{
		"taken over":               {"m1", "m1", true},
		"brought back":             {"m0", "m1", false},
		"taken over, without name": {"", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			task := taskstate.Task{ID: "t_" + name, Expires: time.Now().Add(time.Hour)}
			away := taskstate.Owner{Redis: r, ID: "away", Memory: c.now}
			other := taskstate.Owner{Redis: r, ID: "other", Memory: c.claimed}
			owner, _, err := other.Claim(t.Context(), task, false, nothing)
			require.NoError(t, err)
			require.Equal(t, "other", owner.ID)
			require.NoError(t, away.Register(t.Context(), []taskstate.Running{{Task: task}}))
			owner, _, err = away.Claim(t.Context(), task, false, nothing)
			require.NoError(t, err)
			require.Equal(t, c.stays, owner.ID == "other")
			require.Positive(t, r.TTL(t.Context(), taskstate.LiveKey(task.ID)).Val())
			require.NoError(t, away.DropStale(t.Context(), task.ID, taskstate.Owner{ID: owner.ID, Memory: "another"}))
			still, _, err := other.Claim(t.Context(), task, false, nothing)
			require.NoError(t, err)
			require.Equal(t, owner.ID, still.ID, "only a claim of the given memory is dropped")
		})
	}
}

// TestASuspectCountsNoCrashBeforeItIsIsolated: its worker may die, by another task, between
// the claim that reveals the crashes and the isolation.
func TestASuspectCountsNoCrashBeforeItIsIsolated(t *testing.T) {
	r := redistest.New(t).Client(nil)
	nothing := func(redis.Pipeliner) {}
	task := taskstate.Task{ID: "t_suspect", Expires: time.Now().Add(time.Hour)}
	other := taskstate.Owner{Redis: r, ID: "other"}
	want := 0
	for i, c := range []struct{ isolated, counts bool }{{false, true}, {false, false}, {false, false}, {true, true}, {false, false}} {
		dead := taskstate.Owner{Redis: r, ID: fmt.Sprint("dead ", i)}
		_, counters, err := dead.Claim(t.Context(), task, c.isolated, nothing)
		require.NoError(t, err)
		require.Equal(t, want, counters.Crashes)
		n, err := other.CountCrash(t.Context(), task.ID, dead.ID)
		require.NoError(t, err)
		require.Equal(t, c.counts, n > 0, i)
		if c.counts {
			want++
		}
	}
}

// TestACallThatIsCountedAfterALossKeepsTheOtherCounters: Redis loses the record of a task that
// waits at its gate. Refunded attempts count as spent if the record that its call makes anew lacks
// them.
func TestACallThatIsCountedAfterALossKeepsTheOtherCounters(t *testing.T) {
	r := redistest.New(t).Client(nil)
	me := taskstate.Owner{Redis: r, ID: "me", Memory: "m1"}
	call := taskstate.Call{Task: taskstate.Task{ID: "t_lost", Expires: time.Now().Add(time.Hour)}, Calls: 4, Attempts: 3, Settled: 1, Unpaid: 2}
	for name, before := range map[string]func(){
		"lost":                func() {},
		"lost and registered": func() { require.NoError(t, me.Register(t.Context(), []taskstate.Running{{Task: call.Task}})) },
	} {
		require.NoError(t, r.Del(t.Context(), taskstate.LiveKey("t_lost")).Err())
		before()
		require.Equal(t, []taskstate.Counted{{}}, me.Count(t.Context(), []taskstate.Call{call}))
		counters, err := taskstate.Peek(t.Context(), r, "t_lost")
		require.NoError(t, err)
		require.Equal(t, taskstate.Counters{Calls: 4, Attempts: 3, Settled: 1, Unpaid: 2}, counters, name)
	}
	call.Calls, call.Unpaid = 5, 0
	require.Equal(t, []taskstate.Counted{{}}, me.Count(t.Context(), []taskstate.Call{call}))
	counters, err := taskstate.Peek(t.Context(), r, "t_lost")
	require.NoError(t, err)
	require.Equal(t, taskstate.Counters{Calls: 5, Attempts: 3, Settled: 1, Unpaid: 2}, counters, "a record that is there has the truth")
}
