package monitor

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/tasks"
)

// Scaling is how many workers the limits can use.
type Scaling struct {
	Workers int    `json:"workers" doc:"Processes that are worth running now, for an autoscaler."`
	Running int    `json:"running"`
	Waiting int    `json:"waiting" doc:"Tasks that wait for a worker or for a gate."`
	Reason  string `json:"reason"`
	// Kinds is the same for workers that take one kind only.
	Kinds map[tasks.Kind]int `json:"kinds" doc:"Processes for each kind, if each takes one kind only."`
}

// slotsEach is the slots of a worker for a kind and lane, by default. callTime is the
// assumed length of a call, which is known only afterwards.
const (
	slotsEach = 16
	callTime  = 10 * time.Second
)

// Scaling finds out how many workers the work that waits and the paces of the gates can
// use. A gate that is closed needs none.
func (m *Monitor) Scaling(ctx context.Context, g *gate.Gate, pace func(model, kind string) gate.Pace) (Scaling, error) {
	f, err := m.Fleet(ctx, g)
	if err != nil {
		return Scaling{}, err
	}
	return f.Scaling(pace), nil
}

// Scaling says how many workers the fleet can use. pace is that of a model whose gate was
// never used.
func (f Fleet) Scaling(pace func(model, kind string) gate.Pace) Scaling {
	states := map[string]gate.State{}
	for _, s := range f.Gates {
		states[s.Name] = s
	}
	s := Scaling{Running: len(f.Workers), Reason: "nothing waits", Kinds: map[tasks.Kind]int{}}
	for _, spec := range tasks.Specs {
		s.Kinds[spec.Kind] = 0
	}
	for _, q := range f.Queues {
		waiting, usable := q.Waiting(), q.usable(states, pace)
		s.Waiting += waiting
		wanted := int(math.Ceil(min(usable, float64(waiting)) / slotsEach))
		s.Kinds[q.Kind] = max(s.Kinds[q.Kind], wanted)
		if waiting > 0 && wanted > s.Workers {
			s.Workers, s.Reason = wanted, fmt.Sprintf("%d tasks of %s wait, and the limit has room for %.0f calls at a time", waiting, q.Name(), usable)
		}
	}
	if s.Waiting == 0 || s.Workers > 0 {
		return s
	}
	s.Reason = "the gates of all tasks that wait are closed"
	if s.Running > 0 {
		return s
	}
	s.Workers, s.Reason = 1, "tasks wait, and no worker runs to notice when their gates open"
	for _, q := range f.Queues {
		if q.Waiting() > 0 {
			s.Kinds[q.Kind] = 1
		}
	}
	return s
}

// usable is how many calls of a queue's models the limits let run at a time.
func (q Queue) usable(states map[string]gate.State, pace func(model, kind string) gate.Pace) float64 {
	usable := 0.0
	for _, model := range q.models {
		state, used := states[model]
		perMinute := float64(pace(model, string(q.Kind)).PerMinute)
		if used {
			perMinute = float64(state.Pace.PerMinute) * state.RateFactor
		}
		if !used || !state.Refused && state.Closed == 0 {
			usable += perMinute * callTime.Minutes()
		}
	}
	return usable
}
