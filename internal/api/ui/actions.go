package ui

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/tasks"
)

func (u *UI) actionRoutes() {
	u.action("/new", keys.TasksWrite, u.submit)
	u.action("/tasks/{id}/retry", keys.TasksWrite, u.retry)
	u.action("/tasks/{id}/cancel", keys.TasksWrite, u.cancel)
	u.action("/tasks", keys.TasksWrite, u.changeTasks)
	u.action("/actions", keys.TasksWrite, u.startAction)
	u.action("/gates", keys.GatesWrite, u.changeGate)
	u.action("/batches/{id}", keys.TasksWrite, u.changeBatch)
	u.action("/schedules/{name}", keys.TasksWrite, u.changeSchedule)
	u.action("/webhooks", keys.TasksWrite, u.replay)
}

// action registers a form. Cross-origin requests were refused before.
func (u *UI) action(path string, scope keys.Scope, do func(http.ResponseWriter, *http.Request, Caller)) {
	u.mux.HandleFunc("POST "+u.cfg.Base+path, u.guard(scope, func(w http.ResponseWriter, r *http.Request, c Caller) {
		r.Body = http.MaxBytesReader(w, r.Body, mostForm)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(pageTime)) // not supported by recorders of tests
		if err := r.ParseForm(); err != nil {
			u.fail(w, r, c, refusedError{http.StatusBadRequest, "The form is too large or broken."})
			return
		}
		do(w, r, c)
	}))
}

// acted is an action and where it leads.
type acted struct {
	err        error
	did, about string
	count      int
	to, done   string
}

// acted logs an action and shows the page after it.
func (u *UI) acted(w http.ResponseWriter, r *http.Request, c Caller, a acted) {
	if a.err != nil {
		u.fail(w, r, c, a.err)
		return
	}
	u.taskPages.forget(c.Tenant)
	u.cfg.Log.Info("changed in the dashboard", "did", a.did, "about", cut(200, a.about), "count", a.count, "tenant", c.Tenant, "key", c.KeyID)
	entry := history.Action{At: time.Now().UTC(), Key: c.KeyID, Did: a.did, About: a.about, Count: a.count}
	if err := u.cfg.History.Log(r.Context(), c.Tenant, entry); err != nil {
		u.cfg.Log.Warn("the log of actions lacks one", "error", err)
	}
	to, _ := url.Parse(a.to)
	q := to.Query()
	q.Set("done", a.done)
	if a.done == "group" {
		q.Set("n", strconv.Itoa(a.count))
	}
	to.RawQuery = q.Encode()
	http.Redirect(w, r, u.url(to.String()), http.StatusSeeOther)
}

func (u *UI) retry(w http.ResponseWriter, r *http.Request, c Caller) {
	id, err := idOf(r)
	if err != nil {
		u.fail(w, r, c, err)
		return
	}
	info, err := u.cfg.Client(c.Tenant).Get(r.Context(), id)
	if err == nil && (info.Result == nil || info.Result.Status != tasks.Failed) {
		err = refusedError{http.StatusConflict, "Only a task that has failed runs again. Of any other, make an edited copy."}
	}
	var receipt tasks.Receipt
	if err == nil {
		receipt, err = u.cfg.Client(c.Tenant).Retry(r.Context(), id)
	}
	u.acted(w, r, c, acted{err: notKept(err), did: "retry", about: id, count: 1, to: "/tasks/" + receipt.ID, done: "retried"})
}

// notKept explains an error of a task that cannot be run again.
func notKept(err error) error {
	if _, lost := errors.AsType[*tasks.TaskError](err); lost {
		return refusedError{http.StatusConflict, "The bucket no longer has the input of this task."}
	}
	return err
}

func (u *UI) cancel(w http.ResponseWriter, r *http.Request, c Caller) {
	id, err := idOf(r)
	if err == nil {
		_, err = u.cfg.Client(c.Tenant).Get(r.Context(), id)
	}
	if err == nil {
		err = u.cfg.Client(c.Tenant).Cancel(r.Context(), id)
	}
	u.acted(w, r, c, acted{err: err, did: "cancel", about: id, count: 1, to: "/tasks/" + id, done: "cancelled"})
}

// mostSelected is how many tasks one form changes.
const mostSelected = 200

// changeTasks retries or cancels the tasks that a person selected.
func (u *UI) changeTasks(w http.ResponseWriter, r *http.Request, c Caller) {
	client, do := u.cfg.Client(c.Tenant), r.PostFormValue("do")
	ids := r.PostForm["id"]
	if len(ids) == 0 || len(ids) > mostSelected || do != "retry" && do != "cancel" {
		u.fail(w, r, c, refusedError{http.StatusBadRequest, "Select up to 200 tasks first."})
		return
	}
	changed := 0
	for _, id := range ids {
		if !taskID.MatchString(id) {
			continue
		}
		info, err := client.Get(r.Context(), id)
		switch {
		case err != nil:
		case do == "retry" && info.Result != nil && info.Result.Status == tasks.Failed:
			_, err = client.Retry(r.Context(), id)
		case do == "cancel" && info.Result == nil:
			err = client.Cancel(r.Context(), id)
		default:
			continue
		}
		if err == nil {
			changed++
		}
	}
	to := ownPath(r.PostFormValue("to"))
	if !strings.HasPrefix(to, "/tasks") {
		to = "/tasks"
	}
	u.acted(w, r, c, acted{did: do, about: strings.Join(ids, " "), count: changed, to: to, done: "group"})
}
