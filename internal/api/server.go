package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/neuronmill/neuronmill/internal/bulk"
	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/metrics"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/traces"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Config has the settings of a Server.
type Config struct {
	Redis redis.UniversalClient // the caller closes it
	Store storage.Store         // the bucket of the workers
	Gate  *gate.Gate            // the fleet's gates, to look at and to change
	// AllowUnknownModel accepts models that the catalogue does not know.
	AllowUnknownModel bool
	// WebhookNetworks are networks that webhooks may reach beside public addresses.
	WebhookNetworks fetch.Networks
	// Version of the program, for the document; empty means "dev".
	Version string
	Log     *slog.Logger // nil means the default logger
	// Metrics has what GET /metrics answers; nil means a registry of the server's own.
	Metrics *prometheus.Registry
	// Tracer makes a span of each request that accepts or changes something; nil makes none.
	Tracer *traces.Tracer

	Listen      string // host:port; empty means 127.0.0.1:8080
	TLSCert     string // file with the certificate chain (PEM); empty means no TLS
	TLSKey      string // file with the certificate's key (PEM)
	UIPath      string // path of the dashboard; empty means DefaultUIPath
	BehindProxy bool   // a proxy in front ends TLS, so this server may speak plain HTTP to other machines
}

// Validate reports all invalid settings by the names of their flags.
func (c Config) Validate() error {
	var errs []error
	if c.Redis == nil || c.Store == nil || c.Gate == nil {
		errs = append(errs, errors.New("settings Redis, Store and Gate must all be set"))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("--tls-cert and --tls-key belong together"))
	}
	if _, _, err := splitListen(cmp.Or(c.Listen, DefaultListen)); err != nil {
		errs = append(errs, err)
	}
	if err := c.checkUIPath(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// DefaultListen is where a Server listens by default: this machine alone can reach it.
const DefaultListen = "127.0.0.1:8080"

// Server is the HTTP interface. Create it with New; Run serves it.
type Server struct {
	closeOpenAI func() // ends what runs behind the requests of the OpenAI routes

	cfg     Config
	log     *slog.Logger
	keys    *keys.Ring
	monitor *monitor.Monitor
	metrics *metrics.Metrics
	mux     *http.ServeMux
	api     huma.API
	limits  *limiters
	memory  *memory // of JSON bodies
	rates   *keyRates
	bulk    *bulk.Runner

	// stopping is closed when the server begins to stop. Whatever waits or streams ends
	// then.
	stopping chan struct{}
	stopOnce sync.Once

	secretMu  sync.Mutex
	cursorKey []byte // signs the cursors of lists; read from the bucket when first needed
	document  func() []byte

	downgraded func() ([]byte, error) // the document as OpenAPI 3.0

	hub     *events.Hub // of the followers of tasks
	hubOnce sync.Once   // starts it with the first of them

	mu       sync.Mutex
	clients  map[string]*tasks.Client // by tenant
	outlooks map[string]recentOutlook // by queue and model
}

// New makes a server. Call Run to serve, or Handler to serve it otherwise.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("http api: %w", err)
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, keys: keys.NewRing(cfg.Store), monitor: &monitor.Monitor{Redis: cfg.Redis, WorkersFor: time.Second},
		mux: http.NewServeMux(), limits: newLimiters(), memory: newMemory(bodyMemory), stopping: make(chan struct{}),
		clients: map[string]*tasks.Client{}, outlooks: map[string]recentOutlook{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.cfg.Metrics == nil {
		s.cfg.Metrics = prometheus.NewRegistry()
	}
	s.rates = newKeyRates(cfg.Redis, s.log)
	measured, err := metrics.Of(s.cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("http api: %w", err)
	}
	s.metrics = measured
	s.metrics.ReadFleet(s.monitor, cfg.Gate)
	s.hub = events.NewHub(cfg.Redis, s.log)
	s.api = humago.New(s.mux, humaConfig(cmp.Or(cfg.Version, "dev")))
	s.bulk = s.newBulk()
	s.routes()
	s.document = sync.OnceValue(s.makeDocument)
	s.downgraded = sync.OnceValues(s.makeDowngraded)
	return s, nil
}

// routes registers all surfaces.
func (s *Server) routes() {
	s.openaiRoutes()
	s.healthRoutes()
	s.metricsRoute()
	s.documentRoutes()
	s.taskRoutes()
	s.actionRoutes()
	s.uploadRoutes()
	s.linkRoutes()
	s.scheduleRoutes()
	s.fleetRoutes()
	s.usageRoutes()
	s.budgetRoutes()
	s.eventRoutes()
	s.dashboardRoutes()
}

// humaConfig returns the settings of huma. Its own pages load scripts from elsewhere, and
// its links to schemas would be in every answer, so both are off.
func humaConfig(version string) huma.Config {
	c := huma.DefaultConfig("neuronmill", version)
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.Formats = map[string]huma.Format{"application/json": strictJSON, "json": strictJSON}
	c.RejectUnknownQueryParameters = true
	c.Info.Description = "A job queue for Cloudflare Workers AI. Every error is a problem (RFC 9457) with a stable code; /docs/errors explains the codes."
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		keyScheme: {Type: "http", Scheme: "bearer", Description: "An API key: neuronmill key create. A server on loopback without any key needs none."},
	}
	registerAliases(c.Components.Schemas)
	return c
}

// client returns the producer's client of a tenant. Tenants come from keys, so there are
// few.
func (s *Server) client(tenant string) *tasks.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[tenant]
	if !ok {
		c = tasks.NewClient(tasks.Config{Redis: s.cfg.Redis, Store: s.cfg.Store, Tenant: tenant, AllowUnknownModel: s.cfg.AllowUnknownModel, WebhookNetworks: s.cfg.WebhookNetworks, Observer: s.metrics.Accepted("http"), Trace: traces.Traceparent})
		s.clients[tenant] = c
	}
	return c
}

// stop makes everything that waits or streams end.
func (s *Server) stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

// waitContext returns a context that also ends when the server stops, for handlers that
// wait.
func (s *Server) waitContext(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, most)
	release := make(chan struct{})
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-release:
		}
	}()
	var once sync.Once
	return ctx, func() { cancel(); once.Do(func() { close(release) }) }
}
