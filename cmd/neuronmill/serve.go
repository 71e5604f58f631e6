package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/neuronmill/neuronmill/internal/api"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/prometheus/client_golang/prometheus"
)

// listenFlags say where the HTTP interface listens.
type listenFlags struct {
	Listen      string `env:"NEURONMILL_LISTEN" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where the HTTP interface listens; 127.0.0.1:8080 by default."`
	TLSCert     string `name:"tls-cert" env:"NEURONMILL_TLS_CERT" placeholder:"FILE" help:"Certificate chain (PEM), to serve HTTPS."`
	TLSKey      string `name:"tls-key" env:"NEURONMILL_TLS_KEY" placeholder:"FILE" help:"Key of the certificate (PEM)."`
	UIPath      string `name:"ui-path" env:"NEURONMILL_UI_PATH" default:"/ui" placeholder:"PATH" help:"Where the dashboard is; /ui by default."`
	BehindProxy bool   `env:"NEURONMILL_BEHIND_PROXY" help:"A proxy in front ends TLS and sets X-Forwarded-For."`
}

// open opens the address and returns what serves it.
func (f listenFlags) open(g *globals, stack *app.Stack, metrics *prometheus.Registry) (service, error) {
	server, err := api.New(api.Config{
		Redis: stack.Redis.UniversalClient, Store: stack.Store, Gate: stack.Gate(g.settings, 0, g.log), Version: builtVersion(), Log: g.log, Metrics: metrics, WebhookNetworks: g.settings.WebhookAllow,
		Tracer: g.tracer, Listen: f.Listen, TLSCert: f.TLSCert, TLSKey: f.TLSKey, UIPath: f.UIPath, BehindProxy: f.BehindProxy,
	})
	if err != nil {
		return nil, err
	}
	listener, err := server.Listen(g.ctx)
	if err != nil {
		return nil, err
	}
	scheme := "http"
	if f.TLSCert != "" {
		scheme = "https"
	}
	fmt.Fprintf(g.stderr, "http at %s://%s, described at /docs; dashboard at %s://%s%s/\n", scheme, listener.Addr(), scheme, listener.Addr(), strings.TrimRight(f.UIPath, "/"))
	return func(ctx context.Context) error { return server.Run(ctx, listener) }, nil
}

type serveCmd struct {
	listenFlags
}

// Help is shown by --help.
func (serveCmd) Help() string {
	return examples(
		"neuronmill serve",
		"neuronmill serve --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem",
		"neuronmill serve --listen 0.0.0.0:8080 --behind-proxy",
	) + `
The HTTP interface, the drivers of batches and the stored schedules: tasks are done by workers elsewhere. Start as many as you like. On loopback it is open until the first key is made; on other addresses it needs a key
(neuronmill key create), and TLS or a proxy. /docs of the server lists the routes.`
}

// Run serves until Ctrl-C.
func (c *serveCmd) Run(g *globals) error {
	stack, err := app.Open(g.ctx, g.settings, false, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	registry, err := newRegistry()
	if err != nil {
		return err
	}
	closeTraces, err := g.openTraces()
	if err != nil {
		return app.Usage(err)
	}
	defer closeTraces()
	serve, err := c.open(g, stack, registry)
	if err != nil {
		return app.Usage(err)
	}
	fmt.Fprintf(g.stderr, "the server runs: redis %s; bucket %s; Ctrl-C stops it\n", stack.Redis.Description, stack.Bucket)
	return together(g.ctx, serve, batchService(g, stack), schedulerService(g, stack, nil, 0))
}

type devCmd struct {
	listenFlags
	Schedules string `placeholder:"FILE" help:"Run these schedules too; deploy/schedules.yaml is an example."`
}

// Help is shown by --help.
func (devCmd) Help() string {
	return examples("neuronmill dev", "neuronmill dev --listen 127.0.0.1:9090 --schedules schedules.yaml") + `
The HTTP interface, a worker of all kinds and a scheduler in one process, on the embedded defaults where nothing else is set. From a second terminal in the same folder:

  neuronmill enqueue text "Name three rivers"
  neuronmill gates --watch
  curl http://127.0.0.1:8080/v1/tasks`
}

// Run runs everything until Ctrl-C, with the embedded defaults or the settings given.
func (c *devCmd) Run(g *globals) error {
	registry, err := newRegistry()
	if err != nil {
		return err
	}
	entries, err := loadSchedules(c.Schedules)
	if err != nil {
		return err
	}
	parts := []func(*app.Stack) (service, error){
		func(s *app.Stack) (service, error) { return c.open(g, s, registry) },
		func(s *app.Stack) (service, error) { return schedulerService(g, s, entries, 0), nil },
	}
	return runWorker(g, worker.Config{Metrics: registry}, "everything", parts...)
}
