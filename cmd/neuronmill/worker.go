package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

type workerCmd struct {
	Kinds       []tasks.Kind `help:"Only these kinds: transcription,image,translation,embedding,text."`
	Concurrency int          `default:"16" help:"Calls at once of each kind and lane."`
	BulkShare   float64      `default:"0.05" help:"Part of a model's pace that bulk gets even when interactive tasks would take all of it, 0 to 0.5."`
}

// Help is shown by --help.
func (workerCmd) Help() string {
	return `Start as many as you like, on as many machines: they share the pace of each model through Redis. Ctrl-C takes no
more tasks and lets the calls end that are under way, since they are paid for; a second Ctrl-C ends at once.

  neuronmill worker
  neuronmill worker --kinds embedding,text --concurrency 32`
}

// Run works until Ctrl-C.
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
	return serve(g, app.WorkerOptions{Kinds: c.Kinds, Concurrency: c.Concurrency, BulkShare: c.BulkShare}, "worker")
}

type devCmd struct{}

// Help is shown by --help.
func (devCmd) Help() string {
	return `A worker of all kinds, on the embedded defaults where nothing else is set. From a second terminal in the same folder:

  neuronmill dev
  neuronmill enqueue text "Name three rivers"
  neuronmill gates --watch`
}

// Run works until Ctrl-C on the embedded defaults, or whatever is set.
func (c *devCmd) Run(g *globals) error {
	return serve(g, app.WorkerOptions{BulkShare: 0.05}, "everything")
}

func serve(g *globals, o app.WorkerOptions, what string) error {
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
	worker, err := stack.Worker(g.settings, ai, o, g.log)
	if err != nil {
		return err
	}
	fmt.Fprintf(g.stderr, "%s runs: redis %s; bucket %s; Ctrl-C stops it, a second one at once\n", what, stack.Redis.Description, stack.Bucket)
	err = worker.Run(g.ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return app.Usage(err)
	}
	return err
}
