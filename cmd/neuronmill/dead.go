package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

type deadCmd struct {
	Ls    deadLsCmd    `cmd:"" help:"List failed tasks."`
	Show  deadShowCmd  `cmd:"" help:"Print a failed task and how it ended."`
	Retry deadRetryCmd `cmd:"" help:"Run failed tasks again, as new ones; prints their ids."`
	Drop  deadDropCmd  `cmd:"" help:"Take failed tasks off the list for good; their results stay."`
}

// deadFilter chooses among failed tasks.
type deadFilter struct {
	Code  string     `placeholder:"attempts_exhausted" help:"Only those that failed with this code."`
	Kind  tasks.Kind `help:"Only this kind."`
	Limit int        `help:"At most so many; 0 means all."`
}

// each calls do for every failed task that the filter lets through.
func (f deadFilter) each(g *globals, stack *app.Stack, do func(tasks.Dead) error) error {
	if f.Limit < 0 {
		return app.Usage(errors.New("--limit wants a number from 0"))
	}
	if _, known := tasks.SpecOf(f.Kind); f.Kind != "" && !known {
		return app.Usage(fmt.Errorf("--kind: there is no kind %q", f.Kind))
	}
	for d, err := range stack.Client.Dead(g.ctx, tasks.DeadFilter{Kind: f.Kind, Code: f.Code, Limit: f.Limit}) {
		if err == nil {
			err = do(d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type deadLsCmd struct {
	deadFilter
	JSON bool `name:"json" help:"One JSON object a line."`
}

// Help is shown by --help.
func (deadLsCmd) Help() string {
	return `Tasks that failed for good, with the code that says why:

  neuronmill dead ls --kind text
  neuronmill dead ls --code attempts_exhausted --json`
}

// Run lists failed tasks.
func (c *deadLsCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	if c.JSON {
		encoder := json.NewEncoder(g.stdout)
		return c.each(g, stack, func(d tasks.Dead) error { return encoder.Encode(d) })
	}
	w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tKIND\tCODE\tFAILED\tMESSAGE")
	err = c.each(g, stack, func(d tasks.Dead) error {
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.ID, d.Kind, d.Error.Code, d.FailedAt.Format(time.RFC3339), d.Error.Message)
		return err
	})
	return errors.Join(err, w.Flush())
}

type deadShowCmd struct {
	ID string `arg:""`
}

// Help is shown by --help.
func (deadShowCmd) Help() string {
	return `The task as it was accepted, then its result document:

  neuronmill dead show t_01a20ef874267941adb4e9ec016f1db6`
}

// Run prints the failed task, then its result.
func (c *deadShowCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	for _, name := range []string{"task.json", "result.json"} {
		body, err := stack.Store.Get(g.ctx, tasks.ArtefactKey("default", c.ID, name))
		if err != nil {
			return fmt.Errorf("%s of %s: %w", name, c.ID, err)
		}
		_, err = io.Copy(g.stdout, body)
		body.Close()
		if err != nil {
			return err
		}
		fmt.Fprintln(g.stdout)
	}
	return nil
}

type deadRetryCmd struct {
	IDs []string `arg:"" optional:"" name:"id"`
	All bool     `help:"All that the other flags let through."`
	deadFilter
}

// Help is shown by --help.
func (deadRetryCmd) Help() string {
	return `A result is never rewritten: each new task has an id of its own.

  neuronmill dead retry t_01a20ef874267941adb4e9ec016f1db6
  neuronmill dead retry --all --code attempts_exhausted`
}

// Run enqueues failed tasks again.
func (c *deadRetryCmd) Run(g *globals) error {
	return onDead(g, c.IDs, c.All, c.deadFilter, "retried", func(stack *app.Stack, id string) error {
		accepted, err := stack.Client.Retry(g.ctx, id)
		if err == nil {
			fmt.Fprintln(g.stdout, accepted.ID)
		}
		return err
	})
}

type deadDropCmd struct {
	IDs []string `arg:"" optional:"" name:"id"`
	All bool     `help:"All that the other flags let through."`
	deadFilter
}

// Help is shown by --help.
func (deadDropCmd) Help() string {
	return `What is removed: the entry in the list, the task and its input, so that it cannot be run again.
What stays: its result document, which is final.

  neuronmill dead drop t_01a20ef874267941adb4e9ec016f1db6
  neuronmill dead drop --all --kind image`
}

// Run drops failed tasks.
func (c *deadDropCmd) Run(g *globals) error {
	return onDead(g, c.IDs, c.All, c.deadFilter, "dropped: entry, task and input; results stay", func(stack *app.Stack, id string) error {
		return stack.Client.Drop(g.ctx, id)
	})
}

// onDead does something to the failed tasks named, or to all that the filter lets
// through. One that fails does not stop the others.
func onDead(g *globals, ids []string, all bool, f deadFilter, done string, do func(*app.Stack, string) error) error {
	if all == (len(ids) > 0) {
		return app.Usage(errors.New("name tasks by id, or choose them by --all (task retry: --failed) with --code, --kind and --limit"))
	}
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	good, bad := 0, 0
	one := func(id string) error {
		if err := do(stack, id); err != nil {
			bad++
			fmt.Fprintf(g.stderr, "%s: %v\n", id, err)
			return g.ctx.Err()
		}
		good++
		return nil
	}
	for _, id := range ids {
		if err := one(id); err != nil {
			return err
		}
	}
	if all {
		if err := f.each(g, stack, func(d tasks.Dead) error { return one(d.ID) }); err != nil {
			return err
		}
	}
	fmt.Fprintf(g.stderr, "%d %s\n", good, done)
	if bad > 0 {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}
