package openaiapi

import (
	"context"
	"time"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

// Ask answers the questions about waiting from the gates and queues of a fleet.
func (c *Config) Ask(m *monitor.Monitor, g *gate.Gate) {
	c.Forecast = func(ctx context.Context, kind tasks.Kind, model string) (Forecast, error) {
		return forecastOf(ctx, m, g, kind, model)
	}
	c.Progress = func(ctx context.Context, client *tasks.Client, id string) (Progress, error) {
		info, err := client.Get(ctx, id)
		if err != nil {
			return Progress{}, err
		}
		if info.Result != nil {
			return Progress{Ended: true}, nil
		}
		w, err := m.WaitingOn(ctx, g, info)
		if err != nil {
			return Progress{}, err
		}
		if info.State == "active" && w.Turn > 0 {
			if w.Turn, err = least(ctx, g, info.Model, w.Turn, time.Until(w.Until)); err != nil {
				return Progress{}, err
			}
		}
		return Progress{
			Forecast: Forecast{Reason: w.String(), Code: w.Code, Wait: w.Turn}, Calling: w.Called, Missing: w.Missing,
		}, nil
	}
}

// forecastOf returns how long a new task would wait. It leaves out tasks that were cancelled
// and have not left yet.
func forecastOf(ctx context.Context, m *monitor.Monitor, g *gate.Gate, kind tasks.Kind, model string) (Forecast, error) {
	name := tasks.Queue(kind, tasks.Interactive)
	place, err := queue.PlaceOf(ctx, m.Redis, name, model, "", 1)
	if err != nil {
		return Forecast{}, err
	}
	leaving, err := m.LeavingOf(ctx, name, model)
	if err != nil {
		return Forecast{}, err
	}
	f, err := monitor.ForecastOf(ctx, g, model, place.Pending.Length+place.Deferred.Length-leaving.Queued)
	if err == nil && leaving.AtGate > 0 && f.Wait > f.Closed {
		states, err := g.States(ctx, model)
		if err != nil {
			return Forecast{}, err
		}
		f.Wait = max(f.Wait-time.Duration(leaving.AtGate)*states[0].Interval(), f.Closed)
	}
	return Forecast{Reason: f.Reason, Code: f.Code, Wait: f.Wait, Shut: f.Shut}, err
}

// least returns the least time that a task in a worker's slot still waits. The gate's next
// free slot comes after the slots that it has promised to those who wait, and the task is
// one of these.
func least(ctx context.Context, g *gate.Gate, model string, turn, closed time.Duration) (time.Duration, error) {
	states, err := g.States(ctx, model)
	if err != nil {
		return 0, err
	}
	promised := time.Duration(states[0].Interactive) * states[0].Interval()
	return max(turn-promised, closed, 0), nil
}
