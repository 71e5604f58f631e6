package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/schedule"
)

type schedulerCmd struct {
	File string `required:"" placeholder:"schedules.yaml" help:"The schedules; deploy/schedules.yaml is an example."`
	Next int    `placeholder:"N" help:"Print the next N runs and end."`
}

// Help is shown by --help.
func (schedulerCmd) Help() string {
	return `Each slot is enqueued once, with any number of schedulers running.

  neuronmill scheduler --file deploy/schedules.yaml --next 10`
}

// Run enqueues by the clock until Ctrl-C.
func (c *schedulerCmd) Run(g *globals) error {
	file, err := os.Open(c.File)
	if err != nil {
		return app.Usage(err)
	}
	entries, err := schedule.Load(file)
	file.Close()
	if err != nil {
		return app.Usage(err)
	}
	if c.Next > 0 {
		w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "AT\tSCHEDULE\tKIND")
		for _, r := range schedule.Next(entries, time.Now(), c.Next) {
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.At.Format(time.RFC3339), r.Name, r.Kind)
		}
		return w.Flush()
	}
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	fmt.Fprintf(g.stderr, "scheduler runs with %d schedules; Ctrl-C stops it\n", len(entries))
	return schedule.New(entries, stack.Client, g.log).Run(g.ctx)
}
