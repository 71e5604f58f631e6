package engine_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// journal keeps the events of a worker.
type journal struct {
	mu     sync.Mutex
	events []tasks.Event
	text   map[string]string
	left   []string
}

// watched makes the workers of a rig write a journal.
func (r *rig) watched() *journal {
	all := &journal{text: map[string]string{}}
	r.cfg.Hooks = engine.Hooks{
		Live: all,
		Observer: func(e tasks.Event) {
			all.mu.Lock()
			defer all.mu.Unlock()
			all.events = append(all.events, e)
		},
		Announce: func(ctx context.Context, pipe redis.Pipeliner, t tasks.Task, result tasks.Result) {
			pipe.RPush(ctx, "told", t.ID+" "+string(result.Status))
		},
	}
	return all
}

func (j *journal) Text(task, part string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text[task] += part
}

func (j *journal) Progress(string, int, int) {}

func (j *journal) Left(task string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.left = append(j.left, task)
}

// of returns the events of a task, as texts.
func (j *journal) of(id string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []string
	for _, e := range j.events {
		if e.ID == id {
			repeated := ""
			if e.Repeated {
				repeated = "repeated"
			}
			list = append(list, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s", e.Type, e.Outcome, e.Code, e.Reason, repeated)), " "))
		}
	}
	return list
}

func TestAnObserverSeesWhatHappensToEachTask(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		all := r.watched()
		r.ai.Fault(workersaitest.Fault{Contains: "twice", To: 1, Status: http.StatusInternalServerError, Body: `{"errors":[{"code":8004,"message":"no"}]}`})
		r.ai.Fault(workersaitest.Fault{Contains: "never", Code: 3030})
		r.work()
		fine := r.enqueue(tasks.Text{Prompt: "fine"}, tasks.WithLane(tasks.Bulk))
		twice, never := r.enqueue(tasks.Text{Prompt: "twice"}), r.enqueue(tasks.Text{Prompt: "never"})
		later := r.enqueue(tasks.Text{Prompt: "later"}, tasks.WithDelay(time.Hour))
		require.NoError(t, r.client.Cancel(t.Context(), later))
		for _, id := range []string{fine, twice, never, later} {
			r.wait(id)
		}
		require.Equal(t, []string{"started", "called ok", "finished completed"}, all.of(fine))
		got := all.of(twice)
		require.Len(t, got, 6)
		require.True(t, strings.HasPrefix(got[2], "waiting "), got)
		got[2] = "waiting"
		require.Equal(t, []string{"started", "called transient 8004", "waiting", "started", "called ok", "finished completed"}, got)
		require.Equal(t, []string{"finished failed cancelled"}, all.of(later), "the leader ends it")
		require.Equal(t, "started", all.of(never)[0])
		require.Contains(t, all.of(never)[2], "finished failed")

		r.stop()
		require.ElementsMatch(t, []string{fine + " completed", twice + " completed", never + " failed", later + " failed"},
			slices.Compact(slices.Sorted(slices.Values(r.redis.LRange(t.Context(), "told", 0, -1).Val()))))
		for _, e := range all.events {
			require.Equal(t, "default", e.Tenant)
			require.Equal(t, tasks.KindText, e.Kind)
			require.NotEmpty(t, e.Model)
			require.NotEmpty(t, e.Lane)
			require.False(t, e.Time.IsZero() || e.CreatedAt.IsZero())
		}
		end := all.events[slices.IndexFunc(all.events, func(e tasks.Event) bool { return e.ID == fine && e.Type == tasks.EventFinished })]
		result := r.wait(fine)
		require.Equal(t, result.FinishedAt, end.Time)
		require.InDelta(t, result.Usage.Neurons, end.Neurons, 0)
		require.Equal(t, tasks.Bulk, end.Lane)
		require.Positive(t, end.Neurons)
		require.Contains(t, all.left, fine)
	})
}

func TestTheTextOfATaskIsPassedOnAsItComes(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		all := r.watched()
		r.ai.Fault(workersaitest.Fault{Kind: "text", Trickle: 10 * time.Millisecond})
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "Name three rivers in a long sentence"})
		half := ""
		for half == "" {
			time.Sleep(100 * time.Millisecond)
			all.mu.Lock()
			half = all.text[id]
			all.mu.Unlock()
		}
		whole := output[tasks.TextOutput](t, r.wait(id)).Text
		require.Less(t, len(half), len(whole), "before the answer is complete")
		require.Equal(t, whole, all.text[id])
	})
}

// A worker that dies after it stored the result reports nothing; the next run does.
func TestTheEndOfATaskIsReportedAlsoWhenItsWorkerDied(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		all := r.watched()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		r.put(objects.ResultKey("default", id), `{"id":"`+id+`","kind":"text","status":"completed","finished_at":"2000-01-01T00:00:00Z","usage":{"calls":1}}`)
		require.NoError(t, r.redis.HSet(t.Context(), taskstate.LiveKey(id), "calls", 1, "attempts", 1).Err())
		r.work()
		time.Sleep(20 * time.Second)
		require.Equal(t, []string{"finished completed repeated"}, all.of(id))
		require.Equal(t, []string{id + " completed"}, r.redis.LRange(t.Context(), "told", 0, -1).Val())
	})
}

func TestAnObserverThatPanicsFailsNoTask(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Hooks.Observer = func(tasks.Event) { panic("out of range") }
		r.work()
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Text{Prompt: "hi"})).Status)
		require.Equal(t, tasks.Completed, r.wait(r.enqueue(tasks.Embedding{Texts: []string{"hi"}})).Status)
	})
}

// The end of a task with a webhook is announced until Redis has taken the announcement.
func TestAnAnnouncementThatRedisDidNotTakeIsRepeated(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		all := r.watched()
		tries := 0
		r.cfg.Hooks.Announce = func(ctx context.Context, pipe redis.Pipeliner, t tasks.Task, _ tasks.Result) {
			all.mu.Lock()
			defer all.mu.Unlock()
			if tries++; tries < 3 {
				pipe.Do(ctx, "HGET", "told") // refused: an argument is missing
				return
			}
			pipe.RPush(ctx, "told", t.ID)
		}
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(time.Minute)
		require.Equal(t, []string{id}, r.redis.LRange(t.Context(), "told", 0, -1).Val())
		require.Len(t, r.ai.Requests(), 1)
		list, err := r.client.List(t.Context(), tasks.ListFilter{})
		require.NoError(t, err)
		require.Empty(t, list, "the queue has forgotten the task")
	})
}
