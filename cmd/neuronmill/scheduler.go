package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"text/tabwriter"
	"time"
	_ "time/tzdata" // time zones also where the machine has none

	"github.com/alecthomas/kong"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/schedule"
)

type schedulerCmd struct {
	File    string        `required:"" placeholder:"schedules.yaml" help:"The schedules; deploy/schedules.yaml is an example."`
	Next    coming        `placeholder:"10" help:"Print the runs that come next, and end."`
	CatchUp time.Duration `placeholder:"0s" help:"Enqueue slots missed while no scheduler ran, up to this age; by default they are skipped."`
}

// Help is shown by --help.
func (schedulerCmd) Help() string {
	return `Each slot is enqueued once, with any number of schedulers running.

  neuronmill scheduler --file deploy/schedules.yaml --next
  neuronmill scheduler --file deploy/schedules.yaml --catch-up 6h`
}

// coming is a number of runs: --next means 10, --next=3 and --next 3 mean 3.
type coming int

// Decode takes the number when there is one.
func (n *coming) Decode(ctx *kong.DecodeContext, _ ...reflect.Value) error {
	token := ctx.Scan.Peek()
	text := fmt.Sprint(token.Value)
	if _, err := strconv.Atoi(text); err != nil && token.Type != kong.FlagValueToken {
		*n = 10
		return nil
	}
	ctx.Scan.Pop()
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 || v > 10_000 {
		return fmt.Errorf("wants a number from 1 to 10000, not %q", text)
	}
	*n = coming(v)
	return nil
}

// Run enqueues by the clock until Ctrl-C.
func (c *schedulerCmd) Run(g *globals) error {
	if c.CatchUp < 0 || c.CatchUp > 31*24*time.Hour {
		return app.Usage(errors.New("--catch-up wants a duration from 0s to 744h"))
	}
	file, err := os.Open(c.File)
	if err != nil {
		return app.Usage(err)
	}
	entries, err := schedule.Load(file)
	file.Close()
	if err != nil {
		return app.Usage(fmt.Errorf("%s: %w", c.File, err))
	}
	if c.Next > 0 {
		w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "AT\tSCHEDULE\tKIND")
		for _, r := range schedule.Next(entries, time.Now(), int(c.Next)) {
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
	scheduler := schedule.New(entries, stack.Client, g.log)
	scheduler.CatchUp = c.CatchUp
	return scheduler.Run(g.ctx)
}
