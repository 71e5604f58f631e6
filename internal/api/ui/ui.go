package ui

import (
	"context"
	"embed"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/bulk"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// Config has the parts that a dashboard reads and changes. All are required but Version and
// Secure.
type Config struct {
	Base    string // path of the overview without the last slash: "/ui"
	Version string // of the program; may be empty
	Secure  bool   // browsers reach the server by HTTPS, so cookies are for HTTPS only

	Store     storage.Store
	Gate      *gate.Gate
	Monitor   *monitor.Monitor
	Index     *index.Index
	History   *history.History
	Webhooks  *webhook.Queue
	Usage     *usage.Ledger
	Bulk      *bulk.Runner
	Client    func(tenant string) *tasks.Client
	Batches   func(tenant string) *batch.Batches
	Schedules func(tenant string) *schedule.Stored
	Log       *slog.Logger

	// Identify returns the sender of a request by its header Authorization.
	Identify func(*http.Request) (Caller, *Refusal)
	// Secret returns a secret that all servers of the bucket share. It seals sessions.
	Secret func(context.Context) ([]byte, error)
	// Stopping is closed when the server begins to stop.
	Stopping <-chan struct{}
}

// Caller is a person in front of the dashboard.
type Caller struct {
	Tenant string
	KeyID  string       // empty on an open server
	Scopes []keys.Scope // nil means all
}

// Allows reports whether the caller has a scope.
func (c Caller) Allows(s keys.Scope) bool {
	return c.Scopes == nil || keys.Key{Scopes: c.Scopes}.Allows(s)
}

// Refusal says why a request has no caller.
type Refusal struct {
	Status int // 401 asks for a key
	Text   string
}

//go:embed static templates
var files embed.FS

// UI is the dashboard. It serves the requests below Config.Base.
type UI struct {
	cfg      Config
	mux      *http.ServeMux
	pages    map[string]*page
	previews *previews
	live     *hub
	reader   fleetReader
	groups   recent[errorsData]

	taskPages     recent[taskData]
	overviewPasts recent[overviewPast]
	gatePasts     recent[[]gatePast]
	batchLists    recent[batchesData]
	scheduleLists recent[schedulesData]
	scheduleViews recent[scheduleView]
	usages        recent[usageData]
}

// New makes a dashboard. It ends when Config.Stopping is closed.
func New(cfg Config) *UI {
	cfg.Base = strings.TrimRight(cfg.Base, "/")
	u := &UI{cfg: cfg, mux: http.NewServeMux(), previews: newPreviews(), taskPages: recent[taskData]{most: mostTaskPages}, pages: map[string]*page{}}
	u.live = newHub(cfg.Stopping, cfg.Log)
	u.staticRoutes()
	u.sessionRoutes()
	u.page("/{$}", page{nav: "overview", title: "Overview", load: u.overview, live: true})
	u.page("/tasks", page{nav: "tasks", title: "Tasks", load: u.tasks})
	u.page("/tasks/{id}", page{nav: "tasks", title: "Task", name: "task", load: u.task, live: true})
	u.page("/actions/new", page{nav: "tasks", title: "Action", name: "plan", load: u.planAction, scope: keys.TasksWrite})
	u.page("/actions/{id}", page{nav: "tasks", title: "Action", name: "action", load: u.actionState, live: true})
	u.page("/new", page{nav: "new", title: "New task", name: "new", load: u.newTask, scope: keys.TasksWrite})
	u.page("/gates", page{nav: "gates", title: "Gates", load: u.gates, live: true})
	u.page("/batches", page{nav: "batches", title: "Batches", load: u.batches, live: true})
	u.page("/batches/{id}", page{nav: "batches", title: "Batch", name: "batch", load: u.batch, live: true})
	u.page("/schedules", page{nav: "schedules", title: "Schedules", load: u.schedules})
	u.page("/schedules/{name}", page{nav: "schedules", title: "Schedule", name: "schedule", load: u.schedule, live: true})
	u.page("/errors", page{nav: "errors", title: "Errors", load: u.errors})
	u.page("/workers", page{nav: "workers", title: "Workers", load: u.workers, live: true})
	u.page("/usage", page{nav: "usage", title: "Usage", load: u.usage, scope: keys.UsageRead})
	u.page("/webhooks", page{nav: "webhooks", title: "Webhooks", load: u.webhooks})
	u.page("/log", page{nav: "log", title: "Log of actions", load: u.actions})
	u.actionRoutes()
	u.mux.HandleFunc("GET "+cfg.Base+"/usage.csv", u.guard(keys.UsageRead, u.usageCSV))
	u.mux.HandleFunc("GET "+cfg.Base+"/batches/{id}/output", u.guard(keys.TasksRead, u.downloadBatch))
	u.mux.HandleFunc("GET "+cfg.Base+"/tasks/{id}/files/{name}", u.guard(keys.TasksRead, u.serveFile))
	u.mux.HandleFunc(cfg.Base+"/", u.guard(keys.TasksRead, func(w http.ResponseWriter, r *http.Request, c Caller) {
		u.fail(w, r, c, errNotFound)
	}))
	return u
}

// contentPolicy lets a page load the dashboard's own files and nothing else.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP serves one request.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	var protection http.CrossOriginProtection
	if protection.Check(r) != nil {
		http.Error(w, "a page of another site may not do this", http.StatusForbidden)
		return
	}
	u.mux.ServeHTTP(w, r)
}

// url returns the address of a path of the dashboard.
func (u *UI) url(path string) string { return u.cfg.Base + path }

// pageTime is in which a page must be ready.
const pageTime = 20 * time.Second

// page is a page of the dashboard.
type page struct {
	nav, title string
	name       string // of the template; empty means nav
	scope      keys.Scope
	load       func(context.Context, *http.Request, Caller) (any, error)
	live       bool // its template "live" is rendered again for watchers
	views      views
}

// page registers a page.
func (u *UI) page(path string, p page) {
	if p.name == "" {
		p.name = p.nav
	}
	if p.scope == "" {
		p.scope = keys.TasksRead
	}
	p.views = parse(p.name)
	u.pages[p.name] = &p
	u.mux.HandleFunc("GET "+u.cfg.Base+path, u.guard(p.scope, func(w http.ResponseWriter, r *http.Request, c Caller) {
		if p.live && r.URL.Query().Get("live") == "1" {
			u.follow(w, r, c, &p)
			return
		}
		u.render(w, r, c, &p)
	}))
}

// render writes a page.
func (u *UI) render(w http.ResponseWriter, r *http.Request, c Caller, p *page) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	data, err := p.load(ctx, r, c)
	var away redirect
	switch {
	case errors.As(err, &away):
		http.Redirect(w, r, string(away), http.StatusSeeOther)
		return
	case err != nil:
		u.fail(w, r, c, err)
		return
	}
	u.write(w, r, c, p, http.StatusOK, data)
}

// redirect is an error of a load that leads elsewhere.
type redirect string

func (redirect) Error() string { return "redirect" }

var errNotFound = errors.New("there is no such page")

// fail writes the page of an error. It shows no text of the request.
func (u *UI) fail(w http.ResponseWriter, r *http.Request, c Caller, err error) {
	var refused refusedError
	var invalid tasks.ValidationError
	status, text := http.StatusServiceUnavailable, "Redis or the bucket did not answer. Load the page again in some seconds; the server's log has the reason."
	switch {
	case errors.As(err, &refused):
		status, text = refused.status, refused.text
	case errors.As(err, &invalid):
		status, text = http.StatusBadRequest, invalid.Error()
	case errors.Is(err, errNotFound):
		status, text = http.StatusNotFound, "There is no such page."
	case errors.Is(err, tasks.ErrNotFound), errors.Is(err, storage.ErrNotFound), errors.Is(err, batch.ErrNotFound), errors.Is(err, schedule.ErrNotFound):
		status, text = http.StatusNotFound, "Neither Redis nor the bucket has this. Check the id."
	case errors.Is(err, tasks.ErrEnded), errors.Is(err, batch.ErrEnded):
		status, text = http.StatusConflict, "It has ended already."
	case errors.Is(err, batch.ErrNotEnded), errors.Is(err, batch.ErrNoneFailed):
		status, text = http.StatusConflict, "There is nothing to run again: the batch still runs, or none of its lines failed."
	default:
		u.cfg.Log.Warn("page not rendered", "pattern", r.Pattern, "error", err)
	}
	u.write(w, r, c, errorPage, status, errorData{Status: status, Text: text})
}

var errorPage = &page{nav: "", title: "Not possible", name: "error", views: parse("error")}

type errorData struct {
	Status int
	Text   string
}

// refusedError refuses an action with a sentence for people.
type refusedError struct {
	status int
	text   string
}

func (e refusedError) Error() string { return e.text }
