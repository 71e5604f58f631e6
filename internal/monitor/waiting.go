package monitor

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
)

// Cause names the thing a task waits for.
type Cause string

// The causes.
const (
	ForGate     Cause = "gate"     // the gate of its model: the pace, or it is closed
	ForWorker   Cause = "worker"   // a worker that takes it, or a free slot
	ForBudget   Cause = "budget"   // the account's daily allocation, or a cap
	ForSchedule Cause = "schedule" // its own start time
	ForDeferred Cause = "deferred" // its next try after an attempt that failed
)

// Waiting describes why a task has not ended. The zero value means that it only needs a
// free worker.
type Waiting struct {
	For     Cause         // empty while a call is running
	Reason  string        // its gate, its last error or a running call; empty when none of these delays it
	Workers string        // none runs, none takes its kind, or all are busy; empty when one could take it
	Missing bool          // no worker takes it
	Ahead   int           // tasks before it in its queue or at its gate, as far as Redis knows
	Beyond  bool          // more than Ahead are before it: only part of a long queue is searched
	Turn    time.Duration // expected wait from now; 0 when unknown
	Until   time.Time     // it certainly waits until then; zero when unknown
	Code    string        // stable code of the reason, as in package tasks; may be empty
	Do      string        // advice for a person; empty when waiting is enough
	Called  bool          // a call is running
}

// View is the JSON form of Waiting on all surfaces.
type View struct {
	For      Cause      `json:"for" enum:"gate,worker,budget,schedule,deferred" doc:"What the task waits for."`
	Reason   string     `json:"reason" doc:"One sentence for people."`
	Code     string     `json:"code,omitempty" doc:"Stable code of the reason, as in docs/errors."`
	Until    *time.Time `json:"until" doc:"It waits at least until then; null when unknown."`
	Ahead    int        `json:"ahead" doc:"Tasks before it, as far as known."`
	Estimate *time.Time `json:"estimate" doc:"When its turn probably comes; null when unknown."`
	Do       string     `json:"do,omitempty" doc:"What a person can do."`
}

// View returns the JSON form, or nil while a call is running.
func (w Waiting) View(now time.Time) *View {
	if w.Called {
		return nil
	}
	v := &View{For: w.For, Reason: w.String(), Code: w.Code, Ahead: w.Ahead, Do: w.Do}
	if !w.Until.IsZero() {
		until := w.Until.UTC().Truncate(time.Millisecond)
		v.Until = &until
	}
	if w.Turn > 0 && !w.Missing {
		turn := now.Add(w.Turn).UTC().Truncate(time.Second)
		v.Estimate = &turn
	}
	return v
}

// String returns one line for people.
func (w Waiting) String() string {
	var parts []string
	for _, text := range []string{w.Reason, w.Workers} {
		if text != "" {
			parts = append(parts, text)
		}
	}
	text := strings.Join(parts, "; ")
	if text == "" {
		text = "a free worker"
	}
	switch {
	case w.Missing: // without a worker its place is meaningless
	case w.Beyond:
		text += fmt.Sprintf(", behind more than %d others", w.Ahead)
	case w.Ahead == 1:
		text += ", behind one other"
	case w.Ahead > 1:
		text += fmt.Sprintf(", behind %d others", w.Ahead)
	}
	if w.Turn > 0 {
		text += fmt.Sprintf(", its turn in about %s", max(w.Turn.Round(time.Second), time.Second))
	}
	return text
}

// WaitingOn finds out why a task has not ended.
func (m *Monitor) WaitingOn(ctx context.Context, g *gate.Gate, t tasks.Info) (Waiting, error) {
	place, err := m.placeOf(ctx, t)
	if err != nil {
		return Waiting{}, err
	}
	if t.State == "active" && !place.idle {
		return Waiting{Reason: calledText(t), Called: true}, nil
	}
	w := Waiting{For: ForWorker, Ahead: place.ahead, Beyond: place.beyond}
	if t.State != "active" {
		if err = m.missing(ctx, t, place, &w); err != nil {
			return w, err
		}
	}
	switch {
	case t.Cancelled:
		w.Reason, w.Code = "a worker to end it, since it is cancelled", tasks.CodeCancelled
		return w, nil
	case t.State == "scheduled":
		w.For, w.Until = ForSchedule, t.NextRun
		w.Reason = "its start at " + t.NextRun.Local().Format(time.DateTime)
		return w, nil
	case t.State == "retry" && !place.parked:
		w.For, w.Until = ForDeferred, t.NextRun
		w.Reason = retryText(t)
		if budget.IsReason(t.LastError) {
			w.For, w.Code, w.Reason = ForBudget, tasks.CodeBudgetExceeded, t.LastError
			w.Do = "wait, or raise the cap: neuronmill budget set"
			if t.Spend == tasks.SpendFree {
				w.Do = "wait: it goes on at no cost after 00:00 UTC"
			}
		}
		return w, nil
	}
	return w, m.gateOf(ctx, g, t, &w)
}

// calledText describes a task that has an owner and does not wait for its gate.
func calledText(t tasks.Info) string {
	if t.LastError != "" {
		return "a call under way, after: " + t.LastError
	}
	return "a call under way"
}

func retryText(t tasks.Info) string {
	text := fmt.Sprintf("next try in %s", max(time.Until(t.NextRun), 0).Round(time.Second))
	if t.LastError == "" {
		return text
	}
	return t.LastError + "; " + text // the cause first, because long lines are cut
}

// gateOf fills in w from the gates of the task's model and of the account.
func (m *Monitor) gateOf(ctx context.Context, g *gate.Gate, t tasks.Info, w *Waiting) error {
	forecast, err := ForecastOf(ctx, g, t.Model, w.Ahead)
	if err != nil {
		return err
	}
	w.Reason, w.Code, w.Do, w.Turn = forecast.Reason, forecast.Code, cmp.Or(w.Do, forecast.Do), forecast.Wait
	if forecast.For != "" && !w.Missing && w.Workers == "" {
		w.For = forecast.For
	}
	if forecast.Closed > 0 {
		w.Until = time.Now().Add(forecast.Closed)
	}
	if w.Missing || w.Workers != "" { // it waits for a worker; when one is free is unknown
		w.Turn = 0
	}
	return nil
}

// Forecast describes how long a new task of a model would wait at the gates.
type Forecast struct {
	For    Cause         // ForGate or ForBudget; empty when the gate is free
	Reason string        // empty when the gate is free
	Code   string        // stable code of the reason; may be empty
	Do     string        // advice for a person; may be empty
	Wait   time.Duration // expected wait from now; 0 when the gate is free or that is unknown
	Closed time.Duration // the gate is certainly closed for so long; 0 when it is open
	Shut   bool          // it is unknown when the gate opens: a person must act
}

// ForecastOf asks the gates of a model and of the account how long a task waits that has
// so many tasks before it.
func ForecastOf(ctx context.Context, g *gate.Gate, model string, ahead int) (Forecast, error) {
	states, err := g.States(ctx, model, gate.Account)
	if err != nil {
		return Forecast{}, err
	}
	state, account := states[0], states[1]
	if state.Name == gate.Account {
		state, account = account, state
	}
	if state.Pace.Source == "" && !state.Refused && state.Closed == 0 { // the gate was never used
		state = gate.State{Name: model, RateFactor: 1}
	}
	row, _ := catalogue.Find(model)
	waiting := max(ahead, 0) / max(row.Texts, 1)
	f := Forecast{For: ForGate, Wait: state.NextSlot + time.Duration(waiting)*state.Interval(), Closed: max(state.Closed, account.Closed)}
	switch {
	case state.Refused:
		f.refuse(state)
	case account.Refused:
		f.refuse(account)
	case state.Interval() == 0 && state.Why != "":
		f.Reason, f.Wait, f.Shut, f.Do = state.Why, 0, true, "neuronmill gate set "+model+" default"
	case account.Closed > 0:
		f.For, f.Code, f.Reason, f.Do = ForBudget, tasks.CodeQuotaExhausted, account.Why, "wait until 00:00 UTC, or upgrade the plan"
		f.Wait += f.Closed
	case state.Closed > 0:
		f.Reason, f.Code = state.Why, closedCode(state.Why)
		f.Wait = max(f.Wait, state.Closed)
	case state.NextSlot > 0 || state.Interactive+state.Bulk > 0:
		f.Reason, f.Code = gate.Paced, gate.Paced
	default:
		f.For = ""
	}
	return f, nil
}

// Outlook is how long a new task would wait. own is how many of the tasks in its queue are not
// before it: 1 if it is queued already.
func (m *Monitor) Outlook(ctx context.Context, g *gate.Gate, kind tasks.Kind, lane tasks.Lane, model string, own int) (Waiting, error) {
	places, err := queue.PlaceOf(ctx, m.Redis, tasks.Queue(kind, lane), model, "none", 1)
	if err != nil {
		return Waiting{}, err
	}
	w := Waiting{For: ForWorker, Ahead: max(places.Deferred.Length+places.Pending.Length-own, 0)}
	t := tasks.Info{State: "pending", Task: tasks.Task{Kind: kind, Lane: cmp.Or(lane, tasks.Interactive), Model: model}}
	if err := m.missing(ctx, t, place{active: places.Active}, &w); err != nil {
		return w, err
	}
	return w, m.gateOf(ctx, g, t, &w)
}

// refuse describes a gate whose calls the API refuses.
func (f *Forecast) refuse(state gate.State) {
	f.Reason, f.Code, f.Wait, f.Shut = refusedText(state), tasks.CodeAccountRefused, 0, true
	f.Do = "neuronmill doctor; then neuronmill gate open " + state.Name
}

// closedCode returns the code of a failed task for the reason of a closed gate.
func closedCode(why string) string {
	switch {
	case strings.Contains(why, "capacity"):
		return tasks.CodeNoCapacity
	case strings.Contains(why, "throttled"):
		return tasks.CodeRateLimited
	}
	return ""
}

// refusedText tells a person how to react when the API refuses the calls of a gate.
func refusedText(state gate.State) string {
	return state.Why + ": see neuronmill doctor; then neuronmill gate open " + state.Name
}

// place is the position of a task in Redis.
type place struct {
	ahead  int  // tasks before it: in the list of its model's deferred tasks, or in its queue
	beyond bool // the queue is too long to find the task in it
	parked bool // the task is deferred until its gate has room
	idle   bool // the task is in a worker's slot and makes no call: it waits for its gate
	active int  // tasks of its queue that have an owner
}

// searched is the most tasks of a queue that are searched for one.
const searched = 10_000

func (m *Monitor) placeOf(ctx context.Context, t tasks.Info) (place, error) {
	found, err := queue.PlaceOf(ctx, m.Redis, tasks.Queue(t.Kind, t.Lane), t.Model, t.ID, searched)
	if err != nil {
		return place{}, err
	}
	owner, err := taskstate.ReadState(ctx, m.Redis, t.ID)()
	if err != nil {
		return place{}, fmt.Errorf("find the place of %s: %w", t.ID, err)
	}
	p := place{parked: found.Deferred.Listed, active: found.Active}
	p.idle = !owner.Owned || owner.Idle // a new task has no owner before its first call
	switch {
	case found.Deferred.Listed:
		p.ahead = found.Deferred.Ahead
	case found.Pending.Listed:
		p.ahead = found.Pending.Ahead + found.Deferred.Length
	case t.State == "pending" && found.Pending.Length > searched:
		p.ahead, p.beyond = searched+found.Deferred.Length, true
	}
	return p, nil
}

// missing fills in w when no worker takes a task: none runs or takes its kind, or all are
// busy.
func (m *Monitor) missing(ctx context.Context, t tasks.Info, p place, w *Waiting) error {
	workers, err := m.Workers(ctx)
	if err != nil {
		return err
	}
	if text := Missing(workers, t.Kind, t.Lane); text != "" {
		w.Workers, w.Missing, w.Do = text, true, "neuronmill worker --kinds "+string(t.Kind)
		return nil
	}
	if slots, _ := SlotsOf(workers, t.Kind, t.Lane); t.State == "pending" && p.active >= slots {
		w.Workers = fmt.Sprintf("a free worker: all %d slots for %s %s tasks are busy", slots, t.Lane, t.Kind)
	}
	return nil
}
