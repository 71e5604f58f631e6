package main

import (
	"context"
	"os"
	"runtime/pprof"

	"github.com/alecthomas/kong"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
)

// oursCmd is "neuronmill worker" with a CPU profile that shows the cost of a task: set
// BENCH_PROFILE to a file name prefix and run overhead.
type oursCmd struct {
	app.Settings
	Kinds       []tasks.Kind
	Concurrency int
	Profile     string
}

// Run works until the process is stopped.
func (c *oursCmd) Run(ctx context.Context) error {
	out, err := os.Create(c.Profile)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	c.FromEnvironment()
	log := app.Logger(os.Stderr, c.LogLevel)
	stack, err := app.Open(ctx, c.Settings, false, log)
	if err != nil {
		return err
	}
	defer stack.Close()
	ai, _ := app.OpenAI(c.Settings)
	w, err := stack.Worker(c.Settings, ai, worker.Config{Kinds: c.Kinds, Concurrency: c.Concurrency}, log)
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

var groups = kong.ExplicitGroups([]kong.Group{{Key: "settings", Title: "Settings:"}})
