package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

type deadCmd struct {
	Ls    deadLsCmd    `cmd:"" aliases:"list" help:"List failed tasks."`
	Show  deadShowCmd  `cmd:"" help:"Print a failed task and how it ended."`
	Retry deadRetryCmd `cmd:"" help:"Run failed tasks again, as new ones; prints their ids."`
	Drop  deadDropCmd  `cmd:"" help:"Take failed tasks off the list for good; their results stay."`
}

// Help is shown by --help.
func (deadCmd) Help() string {
	return examples("neuronmill dead ls", "neuronmill dead retry --all --code attempts_exhausted") + `
Failed tasks are kept, each with its result document, until they are run again or dropped.`
}

// deadFilter selects failed tasks.
type deadFilter struct {
	Code  string     `placeholder:"attempts_exhausted" help:"Only those that failed with this code."`
	Kind  tasks.Kind `placeholder:"KIND" help:"Only this kind."`
	Limit int        `placeholder:"N" help:"At most so many; all when left out."`
}

// each calls do for every failed task that matches the filter.
func (f deadFilter) each(g *globals, stack *app.Stack, do func(tasks.DeadLetter) error) error {
	if f.Limit < 0 {
		return app.Usage(errors.New("--limit wants a number from 0"))
	}
	if _, known := tasks.SpecOf(f.Kind); f.Kind != "" && !known {
		return app.Usage(fmt.Errorf("--kind: there is no kind %q", f.Kind))
	}
	for d, err := range stack.Client.DeadLetters(g.ctx, tasks.DeadLetterFilter{Kind: f.Kind, Code: f.Code, Limit: f.Limit}) {
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
	return examples("neuronmill dead ls --kind text", "neuronmill dead ls --code attempts_exhausted --json") + `
Tasks that failed for good, with the code that says why.`
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
		return c.each(g, stack, func(d tasks.DeadLetter) error { return encoder.Encode(d) })
	}
	t := newTable(column{name: "ID", shorten: shortIDs}, column{name: "KIND"}, column{name: "CODE"}, column{name: "FAILED", shorten: shortTimes},
		column{name: "MESSAGE", least: 10})
	err = c.each(g, stack, func(d tasks.DeadLetter) error {
		t.add(d.ID, d.Kind, d.Error.Code, d.FailedAt.Format(time.RFC3339), d.Error.Message)
		return nil
	})
	return errors.Join(err, t.print(g.stdout))
}

type deadShowCmd struct {
	ID string `arg:"" help:"As enqueue prints it, or its beginning."`
}

// Help is shown by --help.
func (deadShowCmd) Help() string {
	return examples("neuronmill dead show t_01a20ef874267941") + `
The task as it was accepted, then its result document.`
}

// Run prints the failed task, then its result.
func (c *deadShowCmd) Run(g *globals) error {
	stack, id, err := openTask(g, c.ID)
	if err != nil {
		return err
	}
	defer stack.Close()
	for _, name := range []string{"task.json", "result.json"} {
		body, err := stack.Store.Get(g.ctx, objects.ArtefactKey(objects.DefaultTenant, id, name))
		if errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("%s is not a failed task: it has no %s", id, name)
		}
		if err != nil {
			return fmt.Errorf("%s of %s: %w", name, id, err)
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
	IDs []string `arg:"" optional:"" name:"id" help:"As enqueue prints them, or their beginnings."`
	All bool     `help:"All that the other flags let through."`
	deadFilter
}

// Help is shown by --help.
func (deadRetryCmd) Help() string {
	return examples("neuronmill dead retry t_01a20ef874267941", "neuronmill dead retry --all --code attempts_exhausted") + `
A result is never rewritten: each new task has an id of its own, which is printed.`
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
	IDs []string `arg:"" optional:"" name:"id" help:"As enqueue prints them, or their beginnings."`
	All bool     `help:"All that the other flags let through."`
	deadFilter
}

// Help is shown by --help.
func (deadDropCmd) Help() string {
	return examples("neuronmill dead drop t_01a20ef874267941", "neuronmill dead drop --all --kind image") + `
What is removed: the entry in the list, the task and its input, so that it cannot be run again. What stays: its result document, which is final.`
}

// Run drops failed tasks.
func (c *deadDropCmd) Run(g *globals) error {
	return onDead(g, c.IDs, c.All, c.deadFilter, "dropped: entry, task and input; results stay", func(stack *app.Stack, id string) error {
		return stack.Client.Drop(g.ctx, id)
	})
}

// onDead calls do for the failed tasks with the given ids, or for all that match the
// filter. It continues after a failure.
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
	for _, typed := range ids {
		id, err := resolve(g.ctx, stack, typed)
		if err != nil {
			bad++
			fmt.Fprintln(g.stderr, err)
			continue
		}
		if err := one(id); err != nil {
			return err
		}
	}
	if all {
		if err := f.each(g, stack, func(d tasks.DeadLetter) error { return one(d.ID) }); err != nil {
			return err
		}
	}
	fmt.Fprintf(g.stderr, "%d %s\n", good, done)
	if bad > 0 {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}
