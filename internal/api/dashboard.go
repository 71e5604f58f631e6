package api

import (
	"cmp"
	"errors"
	"net/http"
	"strings"

	"github.com/neuronmill/neuronmill/internal/api/ui"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/internal/webhook"
)

// DefaultUIPath is where the dashboard is by default.
const DefaultUIPath = "/ui"

// uiPath returns the path of the dashboard without the last slash.
func (c Config) uiPath() string { return strings.TrimRight(cmp.Or(c.UIPath, DefaultUIPath), "/") }

// checkUIPath refuses a path that is none, or that other routes have.
func (c Config) checkUIPath() error {
	p := c.uiPath()
	wrong := !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "{} ?#%\\\"'<>") || strings.Contains(p, "//") || strings.Contains(p, "/.")
	for _, taken := range []string{"/v1", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"} {
		wrong = wrong || p == taken || strings.HasPrefix(p, taken+"/")
	}
	if wrong {
		return errors.New("--ui-path must be a path of its own, such as " + DefaultUIPath)
	}
	return nil
}

// dashboardRoutes mounts the dashboard, and leads browsers to it.
func (s *Server) dashboardRoutes() {
	base, runs := s.cfg.uiPath(), &schedule.RunCache{}
	dashboard := ui.New(ui.Config{
		Base: base, Version: s.cfg.Version, Secure: s.cfg.TLSCert != "" || s.cfg.BehindProxy,
		Store: s.cfg.Store, Gate: s.cfg.Gate, Monitor: s.monitor, Index: &index.Index{Redis: s.cfg.Redis}, History: &history.History{Redis: s.cfg.Redis},
		Webhooks: &webhook.Queue{Redis: s.cfg.Redis}, Usage: &usage.Ledger{Redis: s.cfg.Redis}, Bulk: s.bulk, Client: s.client, Log: s.log,
		Batches: func(tenant string) *batch.Batches {
			return batch.New(batch.Config{Client: s.client(tenant), Store: s.cfg.Store, Redis: s.cfg.Redis, Tenant: tenant, Log: s.log})
		},
		Schedules: func(tenant string) *schedule.Stored { return s.schedulesOf(tenant, runs) },
		Identify:  s.identify, Secret: s.secret, Stopping: s.stopping,
	})
	s.mux.Handle(base+"/", dashboard)
	toDashboard := http.RedirectHandler(base+"/", http.StatusFound)
	s.mux.Handle("GET "+base+"/{$}", dashboard)
	s.mux.Handle("GET "+base, toDashboard)
	s.mux.Handle("GET /{$}", toDashboard)
}

// identify returns the caller of a page.
func (s *Server) identify(req *http.Request) (ui.Caller, *ui.Refusal) {
	c, problem := s.authenticate(req)
	if problem != nil {
		return ui.Caller{}, &ui.Refusal{Status: problem.Status, Text: problem.Title + " " + problem.Detail}
	}
	return ui.Caller{Tenant: c.tenant, KeyID: c.keyID, Scopes: c.scopes}, nil
}

// isDashboard reports whether a path is one of the dashboard.
func (s *Server) isDashboard(path string) bool { return strings.HasPrefix(path, s.cfg.uiPath()+"/") }
