package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/metrics"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
)

type workerCmd struct {
	Kinds       []tasks.Kind `placeholder:"KIND" help:"Only these kinds: transcription,image,translation,embedding,text."`
	Concurrency int          `default:"16" help:"Calls at once of each kind and lane."`
	BulkShare   float64      `default:"0.05" help:"Part of a model's pace that bulk gets even when interactive tasks would take all of it, 0 to 0.5."`
	Metrics     string       `env:"NEURONMILL_METRICS" placeholder:"HOST:PORT" help:"Serve GET /metrics for Prometheus there, such as 127.0.0.1:9090."`
	MetricsOpen bool         `env:"NEURONMILL_METRICS_OPEN" help:"Other machines may read the metrics, which need no key."`
}

// Help is shown by --help.
func (workerCmd) Help() string {
	return examples("neuronmill worker", "neuronmill worker --kinds embedding,text --concurrency 32") + `
Start as many as you like, on as many machines: they share the pace of each model through Redis. Ctrl-C takes no more tasks and lets the calls end that are under way, since they
are paid for; a second Ctrl-C ends at once.`
}

// Run runs a worker until Ctrl-C.
func (c *workerCmd) Run(g *globals) error {
	if c.Concurrency < 1 || c.Concurrency > 10_000 {
		return app.Usage(fmt.Errorf("--concurrency %d is out of range, 1 to 10000", c.Concurrency))
	}
	if c.BulkShare < 0 || c.BulkShare > 0.5 {
		return app.Usage(fmt.Errorf("--bulk-share %v is out of range, 0 to 0.5", c.BulkShare))
	}
	for _, k := range c.Kinds {
		if !slices.ContainsFunc(tasks.Specs, func(s tasks.Spec) bool { return s.Kind == k }) {
			return app.Usage(fmt.Errorf("--kinds: there is no kind %q", k))
		}
	}
	share := c.BulkShare
	if share == 0 {
		share = -1 // none, where 0 means the default
	}
	o := worker.Config{Kinds: c.Kinds, Concurrency: c.Concurrency, BulkShare: share}
	if c.Metrics == "" {
		return runWorker(g, o, "worker")
	}
	registry, err := newRegistry()
	if err != nil {
		return err
	}
	o.Metrics = registry
	return runWorker(g, o, "worker", func(*app.Stack) (service, error) {
		listener, err := metrics.Listen(g.ctx, c.Metrics, c.MetricsOpen)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(g.stderr, "metrics at http://%s/metrics\n", listener.Addr())
		return func(ctx context.Context) error { return metrics.Serve(ctx, listener, registry, g.log) }, nil
	})
}

// newRegistry returns a registry with the metrics of Go and of the process.
func newRegistry() (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "neuronmill_build_info", Help: "1, with the version of the program.", ConstLabels: prometheus.Labels{"version": builtVersion()},
	}, func() float64 { return 1 })
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics: %w", err)
		}
	}
	return r, nil
}

// runWorker runs a worker until Ctrl-C, with other services beside it.
func runWorker(g *globals, o worker.Config, what string, beside ...func(*app.Stack) (service, error)) error {
	g.settings.Calls = o.Calls()
	stack, err := app.Open(g.ctx, g.settings, false, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	if skew, err := clockSkew(g.ctx, stack.Redis); err == nil && skew.Abs() > mostSkew {
		return app.Usage(fmt.Errorf("the clock here is %s off that of redis, and a worker would take the tasks of others for abandoned: set both by NTP", skew.Round(time.Second)))
	}
	ai, note := app.OpenAI(g.settings)
	if note != "" {
		fmt.Fprintln(g.stderr, note)
	}
	closeTraces, err := g.openTraces()
	if err != nil {
		return app.Usage(err)
	}
	defer closeTraces()
	o.Observer = g.tracer.Observer()
	w, err := stack.Worker(g.settings, ai, o, g.log)
	if err != nil {
		return err
	}
	services := []service{w.Run, batchService(g, stack)}
	for _, open := range beside {
		one, err := open(stack)
		if err != nil {
			return app.Usage(err)
		}
		services = append(services, one)
	}
	fmt.Fprintf(g.stderr, "%s runs: redis %s; bucket %s; Ctrl-C stops it, a second one at once\n", what, stack.Redis.Description, stack.Bucket)
	err = together(g.ctx, services...)
	if errors.Is(err, errors.ErrUnsupported) {
		return app.Usage(err)
	}
	return err
}

// service is a part of the program that runs until its context ends.
type service func(context.Context) error

// together runs services until ctx ends or one of them fails, which ends the others.
func together(ctx context.Context, services ...service) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range services {
		group.Go(func() error { return s(ctx) })
	}
	return group.Wait()
}
