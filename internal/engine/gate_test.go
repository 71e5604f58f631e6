package engine_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// paced sets every model's limit to perMinute.
func (r *rig) paced(perMinute int) {
	r.cfg.Gate = gate.New(gate.Config{Redis: r.redis, Log: r.cfg.Log,
		Pace: func(string, string) gate.Pace { return gate.Pace{PerMinute: perMinute} }})
}

func TestASlowModelDoesNotHoldUpTheOthersOfItsKindAndKeepsItsOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		slow, fast := "@cf/deepseek-ai/deepseek-v4-flash-0731", "@cf/zai-org/glm-4.7-flash"
		var ids []string
		for i := range 60 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: fmt.Sprint("slow ", i)}, tasks.WithModel(slow), tasks.WithLane(tasks.Bulk)))
			time.Sleep(time.Millisecond)
		}
		other := r.enqueue(tasks.Text{Prompt: "fast"}, tasks.WithModel(fast), tasks.WithLane(tasks.Bulk))
		start := time.Now()
		r.work()
		defer func() { r.stop() }()
		require.Equal(t, tasks.Completed, r.wait(other).Status)
		require.Less(t, time.Since(start), 10*time.Second, "a backlog of three minutes is before it")
		for _, id := range ids {
			require.Equal(t, 1, r.wait(id).Attempts)
		}
		calls := r.calls(slow)
		require.Len(t, calls, 60)
		for i, q := range calls {
			require.InDelta(t, i, number(q.Body), 10, "a task passes few others: those of the first slots, and those deferred beside them")
		}
		require.GreaterOrEqual(t, 60/0.97, calls[59].At.Sub(calls[0].At).Minutes()*20, "the limit is used")
		for _, q := range calls {
			require.Equal(t, http.StatusOK, q.Status)
		}
	})
}

// number returns the number in "slow 7".
func number(body []byte) int {
	var n int
	_, rest, _ := strings.Cut(string(body), "slow ")
	_, _ = fmt.Sscan(strings.TrimRight(rest[:2], `"`), &n)
	return n
}

func TestWaitingTextsRideTogetherAndEachGetsItsOwn(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.paced(20)
		var ids []string
		for i := range 250 {
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("text ", i)}}))
		}
		r.cfg.Concurrency = 16
		r.work()
		defer func() { r.stop() }()
		neurons := 0.0
		for _, id := range ids {
			r.wait(id)
		}
		for i, id := range ids {
			result := r.wait(id)
			require.Equal(t, workersaitest.Vector(fmt.Sprint("text ", i), 768), output[tasks.EmbeddingOutput](t, result).Vectors[0])
			require.Equal(t, tasks.Usage{Neurons: result.Usage.Neurons, Calls: 1}, result.Usage)
			neurons += result.Usage.Neurons
		}
		paid := 0.0
		for _, q := range r.ai.Requests() {
			paid += q.Neurons
		}
		require.InDelta(t, paid, neurons, 0.001, "the shares are the whole")
		require.Len(t, r.ai.Requests(), 3)
	})
}

func TestOneTextAloneGoesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		start := time.Now()
		r.wait(r.enqueue(tasks.Embedding{Texts: []string{"alone"}}))
		require.Less(t, r.ai.Requests()[0].At.Sub(start), 80*time.Millisecond)
	})
}

func TestABadTextFailsAloneAndNoneIsSentOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.ai.Fault(workersaitest.Fault{Kind: "embedding", Contains: "poison", Code: 5006})
		var ids []string
		for i := range 100 {
			text := fmt.Sprint("text ", i)
			if i == 41 {
				text = "poison"
			}
			ids = append(ids, r.enqueue(tasks.Embedding{Texts: []string{text}}))
		}
		r.cfg.Concurrency = 16
		r.work()
		defer func() { r.stop() }()
		for i, id := range ids {
			result := r.wait(id)
			require.LessOrEqual(t, result.Usage.Calls, 3)
			require.Equal(t, 1, result.Attempts)
			if i == 41 {
				require.Equal(t, tasks.CodeRequestRefused, result.Error.Code)
				continue
			}
			require.Equal(t, tasks.Completed, result.Status, i)
		}
	})
}

// A text that makes each of its calls fail with a seemingly transient error fails alone
// too.
func TestATextThatBreaksItsCallsFailsAlone(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]workersaitest.Fault{
		"a page instead of an answer": {Status: 502, Body: "<html>bad gateway</html>"},
		"an internal error":           {Code: 8008},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				fault.Kind, fault.Contains = "embedding", "breaks it"
				r.ai.Fault(fault)
				bad := r.enqueue(tasks.Embedding{Texts: []string{"breaks it"}})
				var good []string
				for i := range 30 {
					good = append(good, r.enqueue(tasks.Embedding{Texts: []string{fmt.Sprint("text ", i)}}))
				}
				r.work()
				require.NotNil(t, r.wait(bad).Error)
				for _, id := range good {
					result := r.wait(id)
					require.Equal(t, tasks.Completed, result.Status, result.Error)
				}
			})
		})
	}
}

func TestTasksWithOtherOptionsDoNotRideTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var ids []string
		for i := range 20 {
			p := tasks.Embedding{Texts: []string{"x"}, Pooling: []string{"mean", "cls"}[i%2]}
			ids = append(ids, r.enqueue(p))
		}
		for i := range 20 {
			p := tasks.Translation{Text: fmt.Sprint("line ", i), TargetLang: []string{"hin_Deva", "tam_Taml"}[i%2]}
			ids = append(ids, r.enqueue(p, tasks.WithModel("@cf/ai4bharat/indictrans2-en-indic-1B")))
		}
		r.cfg.Concurrency = 40
		r.work()
		defer func() { r.stop() }()
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		for _, q := range r.ai.Requests() {
			body := string(q.Body)
			require.False(t, strings.Contains(body, "cls") && strings.Contains(body, "mean"))
		}
		require.Less(t, len(r.ai.Requests()), 12)
	})
}

func TestAThrottledFleetMakesNoCallWhileTheGateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranslation}
		r.paced(600)
		r.ai.Fault(workersaitest.Fault{Kind: "translation", From: 20, To: 20, Code: 3021, Header: http.Header{"Retry-After": {"3"}}})
		var ids []string
		for range 100 {
			ids = append(ids, r.enqueue(tasks.Translation{Text: "one", TargetLang: "de"}, tasks.WithLane(tasks.Bulk)))
		}
		r.work()
		defer func() { r.stop() }()
		for _, id := range ids {
			require.Equal(t, 1, r.wait(id).Attempts)
		}
		calls := r.ai.Requests()
		require.Len(t, calls, 101)
		require.Equal(t, 3021, calls[19].Code)
		require.GreaterOrEqual(t, calls[20].At.Sub(calls[19].At), 3*time.Second)
		whole := calls[100].At.Sub(calls[0].At)
		require.Less(t, whole, 3*time.Second+time.Duration(101*101)*time.Millisecond+time.Second)
	})
}

func TestARefusedAccountStopsAfterTwoCallsUntilTheGateIsOpened(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", To: 2, Code: 10000})
		var ids []string
		for range 10 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: "hi"}))
		}
		time.Sleep(50 * time.Second)
		states, err := r.cfg.Gate.States(t.Context(), "@cf/zai-org/glm-4.7-flash")
		require.NoError(t, err)
		require.Equal(t, "held", states[0].Word())
		require.LessOrEqual(t, len(r.ai.Requests()), 5, "the first flight and the confirming call")
		require.NoError(t, r.cfg.Gate.Open(t.Context(), "@cf/zai-org/glm-4.7-flash"))
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
	}, tasks.KindText)
}

func TestARefusedAccountIsTriedAgainWithoutAPerson(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", To: 3, Code: 10000})
		var ids []string
		for range 10 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithTimeToLive(24*time.Hour)))
		}
		start := time.Now()
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		require.GreaterOrEqual(t, time.Since(start), time.Minute, "no call before the first step")
		require.LessOrEqual(t, len(r.ai.Requests()), 10+3)
	}, tasks.KindText)
}
