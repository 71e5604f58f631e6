package bulk

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/errtext"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/tasks"
)

// failed reports whether a dead letter matches.
func (f Filter) failed(l tasks.DeadLetter, before time.Time) bool {
	return (f.Kind == "" || f.Kind == l.Kind) && (f.Model == "" || f.Model == l.Model) && (f.Code == "" || f.Code == l.Error.Code) &&
		strings.HasPrefix(errtext.Normal(l.Error.Message), errtext.Normal(f.Message)) && !l.FailedAt.Before(f.Since) && l.FailedAt.Before(before)
}

// alive reports whether a task that has not ended matches. The list has checked its state,
// kind and lane.
func (f Filter) alive(t tasks.Info, before time.Time) bool {
	if t.Cancelled || f.Model != "" && t.Model != f.Model || t.CreatedAt.Before(f.Since) || !t.CreatedAt.Before(before) {
		return false
	}
	for key, value := range f.Metadata {
		if t.Metadata[key] != value {
			return false
		}
	}
	return true
}

func (f Filter) list(limit int) tasks.ListFilter {
	return tasks.ListFilter{Kind: f.Kind, Lane: f.Lane, State: f.State, Limit: limit}
}

// mostPriced is the size of the sample from which a price is estimated.
const mostPriced = 20

// sample estimates the price of tasks from the first of them.
type sample struct {
	neurons float64
	seen    int // tasks whose price was asked for
	priced  int
}

// Prepare counts the tasks that match and returns the token that runs the action. The error is a
// tasks.ValidationError if action and filter do not fit.
func (r *Runner) Prepare(ctx context.Context, tenant string, a Action, f Filter) (Plan, error) {
	if err := f.check(a); err != nil {
		return Plan{}, err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	p := Plan{Action: a, Filter: f, Before: now, ExpiresAt: now.Add(TokenFor)}
	var s sample
	count := r.countFailed
	if a == Cancel {
		count = r.countAlive
	}
	if err := count(ctx, tenant, &p, &s); err != nil {
		return p, err
	}
	if s.priced > 0 || p.Count == 0 || a == Drop {
		neurons := s.neurons / float64(max(s.priced, 1)) * float64(p.Count)
		dollars := neurons * usage.DollarsPerNeuron
		p.Neurons, p.Dollars = &neurons, &dollars
	}
	var err error
	p.Token, err = r.Seal(ctx, purpose(tenant), frozen{Action: a, Filter: f, Before: p.Before, Expires: p.ExpiresAt, Count: p.Count, More: p.More})
	return p, err
}

// countFailed counts dead letters.
func (r *Runner) countFailed(ctx context.Context, tenant string, p *Plan, s *sample) error {
	seen := 0
	for letter, err := range r.Client(tenant).DeadLetters(ctx, tasks.DeadLetterFilter{Limit: MostCounted + 1}) {
		if err != nil {
			return err
		}
		if seen++; seen > MostCounted {
			p.More = true
			break
		}
		if !p.Filter.failed(letter, p.Before) {
			continue
		}
		if p.Count++; p.Action == Retry && s.seen < mostPriced {
			task, err := tasks.FailedTask(ctx, r.Store, tenant, letter.ID)
			r.price(ctx, s, task, err)
		}
	}
	return nil
}

// mostLooks bounds how often countAlive reads a part of the list, of up to 2,000 tasks each.
const mostLooks = 50

// countAlive counts tasks that have not ended.
func (r *Runner) countAlive(ctx context.Context, tenant string, p *Plan, s *sample) error {
	var at tasks.Position
	for looks := 0; at.Section >= 0; looks++ {
		if p.Count >= MostCounted || looks == mostLooks {
			p.More = true
			return nil
		}
		list, next, err := r.Client(tenant).ListFrom(ctx, p.Filter.list(pageSize), at, func(t tasks.Info) bool { return p.Filter.alive(t, p.Before) })
		if err != nil {
			return err
		}
		for _, t := range list {
			if s.seen < mostPriced {
				r.price(ctx, s, t.Task, nil)
			}
		}
		p.Count += len(list)
		at = next
	}
	return nil
}

// price adds the price of a task to a sample, if it can be known.
func (r *Runner) price(ctx context.Context, s *sample, t tasks.Task, err error) {
	s.seen++
	var payload tasks.Payload
	if err == nil {
		payload, err = t.Input(ctx, r.Store)
	}
	var input []byte
	if err == nil {
		input, err = json.Marshal(payload)
	}
	if err != nil {
		r.Log.Debug("the price of a task is not known", "task", t.ID, "error", fmt.Sprint(err))
		return
	}
	if neurons, ok := r.Estimate(t.Model, payload, input); ok {
		s.neurons += neurons
		s.priced++
	}
}
