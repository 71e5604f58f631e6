package ui

import (
	"cmp"
	"context"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"github.com/neuronmill/neuronmill/internal/bulk"
	"github.com/neuronmill/neuronmill/tasks"
)

// planData is the plan of an action, for the page that asks for a confirmation.
type planData struct {
	bulk.Plan
	Back string // where the filter came from
}

// PageTitle is the title of the page.
func (d planData) PageTitle() string { return actionTitle(d.Action) }

func actionTitle(a bulk.Action) string {
	switch a {
	case bulk.Retry:
		return "Run failed tasks again"
	case bulk.Drop:
		return "Forget failed tasks"
	}
	return "Cancel tasks"
}

// Words are the parts of the filter.
func (d planData) Words() []string { return filterWords(d.Filter) }

func filterWords(f bulk.Filter) []string {
	words := strings.Fields(f.Words(false))
	for i, w := range words {
		words[i] = cut(120, w)
	}
	if f.Message != "" {
		words = append(words, "message: "+cut(160, f.Message))
	}
	return words
}

// planAction shows how many tasks an action would change, and their price. It changes nothing.
func (u *UI) planAction(ctx context.Context, r *http.Request, c Caller) (any, error) {
	q := r.URL.Query()
	f, err := bulkFilter(q)
	if err != nil {
		return nil, err
	}
	plan, err := u.cfg.Bulk.Prepare(ctx, c.Tenant, bulk.Action(cut(20, q.Get("do"))), f)
	if _, invalid := errors.AsType[tasks.ValidationError](err); invalid {
		err = refusedError{http.StatusBadRequest, "Failed tasks run again, or are forgotten, by kind, model, code and message; tasks that have not ended are cancelled by state, kind, lane, model and metadata."}
	}
	back := ownPath(q.Get("from"))
	if !strings.HasPrefix(back, "/errors") {
		back = "/tasks" + filterOf(q).First()
	}
	return planData{plan, back}, err
}

// bulkFilter reads the filter of an action from an address.
func bulkFilter(q url.Values) (bulk.Filter, error) {
	f := filterOf(q)
	since, err := sinceOf(f.Since)
	b := bulk.Filter{State: f.State, Kind: tasks.Kind(f.Kind), Lane: tasks.Lane(f.Lane), Model: f.Model, Code: f.Code, Message: beginning(q.Get("message")), Since: since}
	if key, value, ok := strings.Cut(f.Meta, ":"); ok {
		b.Metadata = map[string]string{key: value}
	}
	return b, err
}

// mostMessage is the bytes of an error message that select a group.
const mostMessage = 800

// beginning cuts a message to the part that selects a group, at the end of a character.
func beginning(message string) string {
	return strings.ToValidUTF8(message[:min(len(message), mostMessage)], "")
}

// startAction runs the action of a token and shows it.
func (u *UI) startAction(w http.ResponseWriter, r *http.Request, c Caller) {
	state, err := u.cfg.Bulk.Start(r.Context(), c.Tenant, c.KeyID, r.PostFormValue("token"))
	if err != nil {
		u.fail(w, r, c, bulkError(err))
		return
	}
	u.groups.forget(c.Tenant)
	http.Redirect(w, r, u.url("/actions/"+state.ID), http.StatusSeeOther)
}

// bulkError explains an error of package bulk.
func bulkError(err error) error {
	switch {
	case errors.Is(err, bulk.ErrToken):
		return refusedError{http.StatusBadRequest, "The confirmation is not known. Count the tasks again."}
	case errors.Is(err, bulk.ErrExpired):
		return refusedError{http.StatusConflict, "The confirmation has expired, and the tasks may have changed. Count them again."}
	case errors.Is(err, bulk.ErrBusy):
		return refusedError{http.StatusServiceUnavailable, "Other actions run on this server. Confirm again in some seconds."}
	case errors.Is(err, bulk.ErrNotFound):
		return tasks.ErrNotFound
	}
	return err
}

// stateData is an action that was started.
type stateData struct{ bulk.State }

// PageTitle is the title of the page.
func (d stateData) PageTitle() string { return actionTitle(d.Action) }

// Words are the parts of the filter.
func (d stateData) Words() []string { return filterWords(d.Filter) }

// Mark is the word of its mark.
func (d stateData) Mark() string {
	return map[bulk.Status]string{bulk.Running: "running", bulk.Interrupted: "waiting", bulk.Ended: "completed"}[d.Status]
}

// Bar draws how much is done.
func (d stateData) Bar() template.HTML { return bar(int(100*d.Progress()), "good") }

// Took is how long it has taken, in words.
func (d stateData) Took() string {
	end := d.UpdatedAt
	if !d.EndedAt.IsZero() {
		end = d.EndedAt
	}
	return took(end.Sub(d.StartedAt))
}

func (u *UI) actionState(ctx context.Context, r *http.Request, c Caller) (any, error) {
	id, err := idOf(r)
	if err != nil {
		return nil, err
	}
	state, err := u.cfg.Bulk.Get(ctx, c.Tenant, id)
	return stateData{state}, bulkError(err)
}

// BulkLink is the query of the page that changes all tasks of the list; empty if the filter
// fits no action.
func (d tasksData) BulkLink() string {
	f := d.Filter
	switch {
	case !d.Ended && f.State != "archived" && f.Code == "":
		return f.query("do", "") + "&do=" + string(bulk.Cancel)
	case f.State == string(tasks.Failed) && cmp.Or(f.Lane, f.Meta) == "":
		return f.query("do", "") + "&do=" + string(bulk.Retry)
	}
	return ""
}
