package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	_ "time/tzdata" // time zones for machines without a database

	"github.com/alecthomas/kong"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/schedule"
)

type schedulerCmd struct {
	File    string        `placeholder:"schedules.yaml" help:"Schedules to run beside the stored ones; deploy/schedules.yaml is an example."`
	Next    coming        `placeholder:"10" help:"Print the runs of the file that come next, and end."`
	CatchUp time.Duration `placeholder:"0s" help:"Enqueue slots of the file missed while no scheduler ran, up to this age; by default they are skipped."`
}

// Help is shown by --help.
func (schedulerCmd) Help() string {
	return examples("neuronmill scheduler", "neuronmill scheduler --file schedules.yaml --next", "neuronmill scheduler --file schedules.yaml --catch-up 6h") + `
Runs the schedules of neuronmill schedule add and those of a file. Each slot is enqueued once, with any number of schedulers running. --next prints times in the time zone of each
schedule.`
}

// coming is a number of runs: --next means 10, --next=3 and --next 3 mean 3.
type coming int

// Decode reads the number if there is one.
func (n *coming) Decode(ctx *kong.DecodeContext) error {
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
	if c.Next > 0 && c.File == "" {
		return app.Usage(errors.New("--next is for a --file; neuronmill schedule next is for the stored schedules"))
	}
	entries, err := loadSchedules(c.File)
	if err != nil {
		return err
	}
	if c.Next > 0 {
		return printSlots(g, schedule.Next(entries, time.Now(), int(c.Next)))
	}
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	fmt.Fprintf(g.stderr, "scheduler runs the stored schedules and %d of a file; Ctrl-C stops it\n", len(entries))
	return schedulerService(g, stack, entries, c.CatchUp)(g.ctx)
}

// loadSchedules reads the schedules of a file; an empty path means none.
func loadSchedules(path string) ([]schedule.Entry, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, app.Usage(err)
	}
	defer file.Close()
	entries, err := schedule.Load(file)
	if err != nil {
		return nil, app.Usage(fmt.Errorf("%s: %w", path, err))
	}
	return entries, nil
}

// schedulerService runs the stored schedules and those of a file.
func schedulerService(g *globals, stack *app.Stack, entries []schedule.Entry, catchUp time.Duration) service {
	return schedule.New(schedule.Config{Redis: stack.Redis.UniversalClient, Store: stack.Store, Entries: entries, CatchUp: catchUp, Log: g.log}).Run
}
