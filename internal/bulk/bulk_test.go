package bulk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/bulk"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// fixture is a fleet without workers.
type fixture struct {
	t     *testing.T
	redis *redis.Client
	store *storage.Memory
	*bulk.Runner
	client *tasks.Client
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, redis: redistest.Memory(t), store: storage.NewMemory()}
	f.client = tasks.NewClient(tasks.Config{Redis: f.redis, Store: f.store, AllowUnknownModel: true})
	f.Runner = f.server(make(chan struct{}))
	return f
}

// server returns a runner, as another server of the fleet has it.
func (f *fixture) server(stopping chan struct{}) *bulk.Runner {
	return bulk.New(bulk.Config{
		Redis: f.redis, Store: f.store, History: &history.History{Redis: f.redis}, Log: slog.New(slog.DiscardHandler), Stopping: stopping,
		Client:   func(string) *tasks.Client { return f.client },
		Estimate: func(string, tasks.Payload, []byte) (float64, bool) { return 2, true },
		Seal: func(_ context.Context, purpose string, v any) (string, error) {
			text, err := json.Marshal(v)
			return purpose + "\x00" + string(text), err
		},
		Open: func(_ context.Context, purpose, text string, v any) (bool, error) {
			body, ok := strings.CutPrefix(text, purpose+"\x00")
			return ok && json.Unmarshal([]byte(body), v) == nil, nil
		},
	})
}

// enqueue accepts tasks.
func (f *fixture) enqueue(n int, model string) []string {
	f.t.Helper()
	ids := make([]string, n)
	for i := range ids {
		receipt, err := f.client.Enqueue(f.t.Context(), tasks.Text{Prompt: "hi"}, tasks.WithModel(model))
		require.NoError(f.t, err)
		ids[i] = receipt.ID
	}
	return ids
}

// fail makes failed tasks, as a worker leaves them: a result, a dead letter and no task in Redis.
func (f *fixture) fail(n int, code, message string) {
	f.t.Helper()
	ctx := f.t.Context()
	for i := range n {
		r := tasks.Result{ID: fmt.Sprintf("t_%s_%05d", code, i), Kind: tasks.KindText, Status: tasks.Failed, Model: "@cf/a/b", Error: &tasks.TaskError{Code: code, Message: fmt.Sprintf(message, i)}, CreatedAt: time.Now(), FinishedAt: time.Now()}
		document, err := json.Marshal(r)
		require.NoError(f.t, err)
		require.NoError(f.t, f.store.Put(ctx, objects.ResultKey("default", r.ID), strings.NewReader(string(document)), ""))
		require.NoError(f.t, tasks.ListFailure(ctx, f.store, "default", r, func() ([]byte, error) {
			return json.Marshal(tasks.Task{
				Version: 1, ID: r.ID, Tenant: "default", Kind: r.Kind, Lane: tasks.Bulk, Model: r.Model, Payload: json.RawMessage(`{"prompt":"hi"}`),
				CreatedAt: r.CreatedAt, Deadline: r.CreatedAt.Add(time.Hour),
			})
		}, true))
	}
}

func (f *fixture) prepare(a bulk.Action, filter bulk.Filter) bulk.Plan {
	f.t.Helper()
	plan, err := f.Prepare(f.t.Context(), "default", a, filter)
	require.NoError(f.t, err)
	return plan
}

// ended waits until an action has ended.
func (f *fixture) ended(r *bulk.Runner, id string) bulk.State {
	f.t.Helper()
	synctest.Wait()
	s, err := r.Get(f.t.Context(), "default", id)
	require.NoError(f.t, err)
	if s.Status != bulk.Ended {
		synctest.Wait()
		s, err = r.Get(f.t.Context(), "default", id)
		require.NoError(f.t, err)
	}
	require.Equal(f.t, bulk.Ended, s.Status)
	return s
}

// waiting counts the tasks that have not ended and are not cancelled.
func (f *fixture) waiting() int {
	f.t.Helper()
	list, err := f.client.List(f.t.Context(), tasks.ListFilter{Limit: 10_000})
	require.NoError(f.t, err)
	n := 0
	for _, t := range list {
		if !t.Cancelled {
			n++
		}
	}
	return n
}

func TestFailedTasksRunAgainOnceAndLaterOnesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.fail(250, "no_capacity", "call %d: no capacity")
		f.fail(3, "prompt_refused", "refused %d")
		time.Sleep(time.Second)
		plan := f.prepare(bulk.Retry, bulk.Filter{Message: "call 7: no"})
		require.Equal(t, 250, plan.Count)
		require.False(t, plan.More)
		require.InDelta(t, 500, *plan.Neurons, 1e-9)
		require.InDelta(t, 500*0.011/1000, *plan.Dollars, 1e-9)
		require.Zero(t, f.waiting(), "a plan changes nothing")
		time.Sleep(time.Second)
		f.fail(260, "no_capacity", "call %d: no capacity") // ten more, and the others failed again

		var wg sync.WaitGroup
		other := f.server(make(chan struct{}))
		states := make([]bulk.State, 10)
		for i := range states {
			wg.Go(func() {
				r := []*bulk.Runner{f.Runner, other}[i%2]
				states[i], _ = r.Start(t.Context(), "default", "key1", plan.Token)
			})
		}
		wg.Wait()
		for _, s := range states {
			require.Equal(t, states[0].ID, s.ID)
		}
		end := f.ended(other, states[0].ID)
		require.Zero(t, end.Changed, "all failed again, after the plan")
		require.Zero(t, f.waiting())

		time.Sleep(time.Second)
		plan = f.prepare(bulk.Retry, bulk.Filter{Code: "no_capacity"})
		require.Equal(t, 260, plan.Count)
		begun, err := f.Start(t.Context(), "default", "key1", plan.Token)
		require.NoError(t, err)
		end = f.ended(f.Runner, begun.ID)
		require.Equal(t, 260, end.Changed)
		require.Equal(t, 260, f.waiting())
		again, err := other.Start(t.Context(), "default", "key1", plan.Token)
		require.NoError(t, err)
		require.Equal(t, end, again)
		require.Equal(t, 3, f.prepare(bulk.Retry, bulk.Filter{}).Count)

		log, err := (&history.History{Redis: f.redis}).Actions(t.Context(), "default", 10)
		require.NoError(t, err)
		require.Len(t, log, 4)
		require.Equal(t, "retry many: ended", log[0].Did)
		require.Equal(t, 260, log[0].Count)
		require.Equal(t, "key1", log[0].Key)
		require.Equal(t, end.ID+" code:no_capacity", log[0].About)
		require.Equal(t, "retry many: begun", log[1].Did)
	})
}

func TestFailedTasksAreForgottenAndLaterOnesAndResultsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.fail(250, "no_capacity", "call %d: no capacity")
		f.fail(3, "prompt_refused", "refused %d")
		time.Sleep(time.Second)
		plan := f.prepare(bulk.Drop, bulk.Filter{Code: "no_capacity"})
		require.Equal(t, 250, plan.Count)
		require.Zero(t, *plan.Neurons)
		time.Sleep(time.Second)
		f.fail(1, "no_capacity", "call %d: no capacity") // one of them again

		begun, err := f.Start(t.Context(), "default", "key1", plan.Token)
		require.NoError(t, err)
		require.Equal(t, 249, f.ended(f.Runner, begun.ID).Changed)
		time.Sleep(time.Second)
		require.Equal(t, 4, f.prepare(bulk.Drop, bulk.Filter{}).Count)
		require.Zero(t, f.waiting())
		results := 0
		for info, err := range f.store.List(t.Context(), "default/tasks/", "") {
			require.NoError(t, err)
			if strings.HasSuffix(info.Key, "/result.json") {
				results++
			}
		}
		require.Equal(t, 253, results)
	})
}

func TestTasksThatWaitAreCancelledAndLaterOnesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.enqueue(230, "@cf/a/b")
		f.enqueue(5, "@cf/a/c")
		time.Sleep(time.Second)
		plan := f.prepare(bulk.Cancel, bulk.Filter{Model: "@cf/a/b"})
		require.Equal(t, 230, plan.Count)
		time.Sleep(time.Second)
		f.enqueue(2, "@cf/a/b")
		begun, err := f.Start(t.Context(), "default", "", plan.Token)
		require.NoError(t, err)
		end := f.ended(f.Runner, begun.ID)
		require.Equal(t, 230, end.Changed)
		require.Zero(t, end.Unchanged)
		require.Equal(t, 7, f.waiting())
	})
}

func TestAnActionWhoseServerStopsOrDiesIsContinued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.fail(300, "no_capacity", "%d")
		time.Sleep(time.Second)
		plan := f.prepare(bulk.Retry, bulk.Filter{})
		stopping := make(chan struct{})
		close(stopping)
		begun, err := f.server(stopping).Start(t.Context(), "default", "", plan.Token)
		require.NoError(t, err)
		synctest.Wait()
		require.Less(t, f.waiting(), 300)

		key := "neuronmill:action:{default}:" + begun.ID // as a server that died leaves it
		require.NoError(t, f.redis.HSet(t.Context(), key, "owner", "dead", "until", time.Now().Add(time.Minute).UnixMilli()).Err())
		_, err = f.Get(t.Context(), "default", begun.ID)
		require.NoError(t, err)
		synctest.Wait()
		require.Less(t, f.waiting(), 300, "the lease of the other server holds")
		time.Sleep(61 * time.Second)
		end := f.ended(f.Runner, begun.ID)
		require.Equal(t, 300, f.waiting())
		require.Equal(t, 300, end.Changed)
		require.Positive(t, f.redis.TTL(t.Context(), key).Val())
	})
}

func TestATaskThatFailsEachTimeDoesNotHoldUpAnAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.fail(5, "no_capacity", "%d")
		require.NoError(t, f.store.Put(t.Context(), objects.ResultKey("default", "t_no_capacity_00002"), strings.NewReader("{"), ""))
		time.Sleep(time.Second)
		begun, err := f.Start(t.Context(), "default", "", f.prepare(bulk.Retry, bulk.Filter{}).Token)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		end := f.ended(f.Runner, begun.ID)
		require.Equal(t, 4, end.Changed)
		require.Equal(t, 1, end.Unchanged)
	})
}

func TestATokenIsOfOneTenantAndOfTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		used, unused := f.prepare(bulk.Cancel, bulk.Filter{}), f.prepare(bulk.Cancel, bulk.Filter{Kind: tasks.KindImage})
		_, err := f.Start(t.Context(), "other", "", used.Token)
		require.ErrorIs(t, err, bulk.ErrToken)
		_, err = f.Start(t.Context(), "default", "", "x")
		require.ErrorIs(t, err, bulk.ErrToken)
		begun, err := f.Start(t.Context(), "default", "", used.Token)
		require.NoError(t, err)
		time.Sleep(bulk.TokenFor + time.Second)
		_, err = f.Start(t.Context(), "default", "", unused.Token)
		require.ErrorIs(t, err, bulk.ErrExpired)
		again, err := f.Start(t.Context(), "default", "", used.Token)
		require.NoError(t, err)
		require.Equal(t, begun.ID, again.ID)
		_, err = f.Get(t.Context(), "other", begun.ID)
		require.ErrorIs(t, err, bulk.ErrNotFound)
	})
}

func TestAFilterMustFitItsAction(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]struct {
		action bulk.Action
		filter bulk.Filter
		field  string
	}{
		"no action":             {"", bulk.Filter{}, "action"},
		"retry of live tasks":   {bulk.Retry, bulk.Filter{State: "pending"}, "filter.state"},
		"drop of live tasks":    {bulk.Drop, bulk.Filter{State: "active"}, "filter.state"},
		"drop by lane":          {bulk.Drop, bulk.Filter{Lane: tasks.Bulk}, "filter"},
		"cancel of failed ones": {bulk.Cancel, bulk.Filter{State: "failed"}, "filter.state"},
		"retry by lane":         {bulk.Retry, bulk.Filter{Lane: tasks.Bulk}, "filter"},
		"cancel by code":        {bulk.Cancel, bulk.Filter{Code: "x"}, "filter"},
		"an unknown kind":       {bulk.Cancel, bulk.Filter{Kind: "poem"}, "filter.kind"},
		"long metadata":         {bulk.Cancel, bulk.Filter{Metadata: map[string]string{"a": strings.Repeat("b", 1000)}}, "filter.metadata"},
	} {
		_, err := f.Prepare(t.Context(), "default", c.action, c.filter)
		var wrong tasks.ValidationError
		require.ErrorAs(t, err, &wrong, name)
		require.Equal(t, c.field, wrong[0].Field, name)
	}
}
