package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func (r *rig) caps() *budget.Caps { return &budget.Caps{Redis: r.redis, Store: r.store} }

func (r *rig) setCap(scope budget.Scope, name string, neurons float64, over budget.Over) {
	r.t.Helper()
	require.NoError(r.t, r.caps().Set(r.t.Context(), budget.Cap{Scope: scope, Name: name, Neurons: neurons, Over: over}))
}

// billed returns the emulator's bill by day of the request.
func (r *rig) billed() map[string]float64 {
	days := map[string]float64{}
	for _, q := range r.ai.Requests() {
		if q.Billed {
			days[q.At.UTC().Format(time.DateOnly)] += q.Neurons
		}
	}
	return days
}

// page is a text whose translation costs 15.5 neurons, and at most 62.3 by its length.
var page = tasks.Translation{Text: strings.Repeat("word ", 200), TargetLang: "es"}

// longPage is a text whose translation costs 23.3 neurons, and at most 93.4 by its length.
var longPage = tasks.Translation{Text: strings.Repeat("word ", 300), TargetLang: "es"}

// bulkPages enqueues translations.
func (r *rig) bulkPages(page tasks.Translation, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = r.enqueue(page, tasks.WithLane(tasks.Bulk), tasks.WithTimeToLive(20*24*time.Hour), tasks.WithDurability(tasks.InRedis))
	}
	return ids
}

// aroundMidnight has workers from half an hour before the next midnight UTC until half an hour
// after it. A whole day of them takes long to simulate.
func (r *rig) aroundMidnight() {
	time.Sleep(time.Until(budget.NextDay(time.Now()).Add(-30 * time.Minute)))
	r.work()
	time.Sleep(time.Hour)
	r.stop()
}

// The time of a bubble begins at midnight UTC.
func TestBulkUsesTheFreeAllocationOfEachDayAndNothingElse(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.ai = workersaitest.New(workersaitest.Options{KeepCalls: 10_000})
		r.cfg.AI = r.ai.Client()
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranslation}
		r.setCap(budget.Bulk, "", 10_000, budget.Wait)
		ids := r.bulkPages(longPage, 1350)
		r.work()
		for day := range 3 {
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			before := len(r.ai.Requests())
			if day == 1 {
				require.Equal(t, tasks.Completed, r.wait(r.enqueue(page)).Status, "an interactive task is not held")
				before++
			}
			time.Sleep(2 * time.Minute)
			var info tasks.Info
			for _, id := range ids {
				var err error
				info, err = r.client.Get(t.Context(), id)
				require.NoError(t, err)
				if info.Result == nil {
					break
				}
			}
			waiting, err := (&monitor.Monitor{Redis: r.redis}).WaitingOn(t.Context(), r.cfg.Gate, info)
			require.NoError(t, err)
			require.Equal(t, monitor.ForBudget, waiting.For, waiting)
			require.Contains(t, waiting.Reason, "budget of bulk: ")
			require.WithinRange(t, waiting.Until, budget.NextDay(time.Now()), budget.NextDay(time.Now()).Add(10*time.Second))
			r.stop()
			time.Sleep(time.Until(budget.NextDay(time.Now()).Add(-3 * time.Minute)))
			r.work()
			time.Sleep(time.Until(budget.NextDay(time.Now())))
			require.Len(t, r.ai.Requests(), before, "no call while the allocation is spent")
		}
		for date, neurons := range r.billed() {
			switch date {
			case "2000-01-02": // with an interactive task of 15.5 neurons when all was spent
				require.LessOrEqual(t, neurons, 10_016.0)
				require.GreaterOrEqual(t, neurons, 9_900.0)
			case "2000-01-01", "2000-01-03":
				require.LessOrEqual(t, neurons, 10_000.0, date)
				require.GreaterOrEqual(t, neurons, 9_900.0, date)
			}
		}
		for _, q := range r.ai.Requests() {
			require.True(t, q.Billed)
		}
	})
}

// Workers share a cap. Two lose Redis in the middle of their calls: what they have reserved
// stays counted.
func TestACapIsNeverExceededByManyWorkersOfWhichSomeAreLost(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranslation, tasks.KindEmbedding}
		r.setCap(budget.Account, "", 500, budget.Wait)
		r.ai.Fault(workersaitest.Fault{Delay: time.Second})
		ids := r.bulkPages(page, 60)
		for i := range 60 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{strings.Repeat(fmt.Sprintf("word%d ", i), 200)}}, tasks.WithTimeToLive(20*24*time.Hour)))
		}
		r.work()
		for range 2 {
			dying := r.another()
			dying.work()
			time.Sleep(1500 * time.Millisecond)
			dying.link.Cut()
			time.Sleep(time.Minute)
			dying.link.Mend()
			dying.stop()
		}
		time.Sleep(10 * time.Minute)
		r.stop()
		for range 3 {
			r.aroundMidnight()
		}
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		for date, neurons := range r.billed() {
			require.LessOrEqual(t, neurons, 500.0, date)
		}
		require.Greater(t, len(r.billed()), 2)
	})
}

func TestATaskOverACapFailsWhereTheCapSaysSo(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranslation}
		r.setCap(budget.Tenant, "default", 70, budget.Fail)
		r.work()
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(page)).Status)
		failed := r.wait(r.enqueue(page))
		require.Equal(t, tasks.CodeBudgetExceeded, failed.Error.Code)
		require.Contains(t, failed.Error.Message, "budget of tenant default: 15.525 of 70 neurons are spent")
		require.Zero(t, failed.Usage.Calls)
		r.setCap(budget.Tenant, "default", 60, budget.Wait)
		time.Sleep(5 * time.Second)
		failed = r.wait(r.enqueue(page))
		require.Equal(t, tasks.CodeBudgetExceeded, failed.Error.Code, "no day has room for its highest price")
		require.Len(t, r.ai.Requests(), 1)
	})
}

// A task without a cap passes while others wait, and those go on once theirs is raised.
func TestWaitingTasksGoOnWithinAMinuteAfterTheirCapIsRaised(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranslation, tasks.KindEmbedding}
		r.setCap(budget.Key, "k1", 70, budget.Wait)
		r.work()
		mine := tasks.WithAPIKey("k1")
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(page, mine)).Status)
		held, texts := r.enqueue(page, mine), r.enqueue(tasks.Embedding{Texts: []string{strings.Repeat("word ", 1000)}}, mine, tasks.WithModel("@cf/baai/bge-m3"))
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(page)).Status, "of no key")
		time.Sleep(10 * time.Minute)
		require.Len(t, r.ai.Requests(), 3, "the embedding has room")
		require.Equal(t, tasks.Completed, r.wait(texts).Status)
		r.setCap(budget.Key, "k1", 200, budget.Wait)
		raised := time.Now()
		require.Equal(t, tasks.Completed, r.wait(held).Status)
		require.Less(t, time.Since(raised), time.Minute)
	})
}

// Texts that share a call share its reservation: a call that has no room is split.
func TestACallThatManyShareIsSplitWhereACapHasRoomForAPart(t *testing.T) {
	realtest.Long(t)
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindEmbedding}
		// Each text costs 0.606 neurons, and at most 2.44 by its length.
		r.setCap(budget.Account, "", 25, budget.Wait)
		var ids []string
		for i := range 60 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprintf("%0400d", i)}}, tasks.WithLane(tasks.Bulk), tasks.WithTimeToLive(20*24*time.Hour)))
		}
		r.work()
		time.Sleep(10 * time.Minute)
		r.stop()
		today := r.billed()["2000-01-01"]
		require.LessOrEqual(t, today, 25.0)
		require.Greater(t, today, 22.0)
		r.aroundMidnight()
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		for date, neurons := range r.billed() {
			require.LessOrEqual(t, neurons, 25.0, date)
		}
	})
}

// An answer that never came may have been billed, and a refusal was not.
func TestALostAnswerStaysReservedAtItsHighestPrice(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranslation}
		r.setCap(budget.Account, "", 1000, budget.Wait)
		spent := func() float64 {
			caps, err := r.caps().List(t.Context())
			require.NoError(t, err)
			spent, reserved, err := budget.Spent(t.Context(), r.redis, caps, time.Now())
			require.NoError(t, err)
			require.Zero(t, reserved[0])
			return spent[0]
		}
		r.ai.Fault(workersaitest.Fault{To: 1, DropAnswer: true})
		r.work()
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(page)).Status)
		require.InDelta(t, 62.29+15.53, spent(), 0.01)
		r.ai.Fault(workersaitest.Fault{Contains: "refused", Status: 500, Body: `{"errors":[{"code":8004,"message":"no"}]}`})
		refused := tasks.Translation{Text: "refused " + page.Text, TargetLang: "es"}
		require.Equal(t, tasks.Failed, r.wait(r.enqueue(refused)).Status)
		require.InDelta(t, 62.29+15.53, spent(), 0.01)
	})
}
