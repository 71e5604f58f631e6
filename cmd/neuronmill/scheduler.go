package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"time"
	_ "time/tzdata" // time zones for machines without a database

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
	return examples("neuronmill scheduler --file schedules.yaml --next", "neuronmill scheduler --file schedules.yaml --catch-up 6h") + `
Each slot is enqueued once, with any number of schedulers running. --next prints times in the time zone of each schedule.`
}

// coming is a number of runs: --next means 10, --next=3 and --next 3 mean 3.
type coming int

// Decode reads the number if there is one.
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

// Run enqueues scheduled tasks until Ctrl-C.
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
		t := newTable(column{name: "AT"}, column{name: "SCHEDULE", least: 8}, column{name: "KIND"}, column{name: "ZONE", least: 3})
		for _, r := range schedule.Next(entries, time.Now(), int(c.Next)) {
			t.add(r.At.Format(time.RFC3339), r.Name, r.Kind, r.Zone)
		}
		return t.print(g.stdout)
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
