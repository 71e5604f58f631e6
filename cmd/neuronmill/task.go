package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

type taskCmd struct {
	Get    taskGetCmd    `cmd:"" help:"Say where a task stands."`
	Wait   taskWaitCmd   `cmd:"" help:"Wait for a task's end and print its result document."`
	Result taskResultCmd `cmd:"" help:"Print a result document."`
	List   taskListCmd   `cmd:"" help:"List tasks that have not ended."`
	Cancel taskCancelCmd `cmd:"" help:"End a task before its next call."`
	Retry  taskRetryCmd  `cmd:"" help:"Run failed tasks again, as new ones: by id, or --failed with --code, --kind, --limit."`
}

// Help is shown by --help.
func (taskCmd) Help() string {
	return `Every command that takes an id takes those that enqueue prints.

  neuronmill task list --kind text --state retry
  neuronmill task get t_01a20ef874267941adb4e9ec016f1db6
  neuronmill task wait t_01a20ef874267941adb4e9ec016f1db6`
}

// client opens the stack for a command that asks about tasks.
func client(g *globals) (*app.Stack, error) {
	stack, err := app.Open(g.ctx, g.settings, false, g.log)
	return stack, app.Usage(err)
}

type taskGetCmd struct {
	ID string `arg:"" help:"As enqueue prints it."`
}

// Help is shown by --help.
func (taskGetCmd) Help() string {
	return `What it is, what it waits for and until when, or where its result lies:

  neuronmill task get t_01a20ef874267941adb4e9ec016f1db6`
}

// Run prints a task's state.
func (c *taskGetCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	info, err := stack.Client.Get(g.ctx, c.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", c.ID, err)
	}
	w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("id", info.ID)
	row("kind", info.Kind)
	row("model", info.Model)
	row("state", info.State)
	row("attempts", info.Attempts)
	row("created", info.CreatedAt.Format(time.RFC3339))
	if info.LastError != "" {
		row("waits because", info.LastError)
	}
	if info.State == "scheduled" {
		row("comes", info.NextRun.Format(time.RFC3339))
	}
	if info.Result == nil && info.State != "scheduled" {
		waiting, err := stack.WaitingOn(g.ctx, stack.Gate(g.settings, 0, g.log), info)
		if err != nil {
			return err
		}
		row("waiting on", waiting)
	}
	if info.Result != nil {
		row("result", tasks.ResultKey("default", info.ID))
		if info.Result.Error != nil {
			row("error", info.Result.Error)
		}
	}
	return w.Flush()
}

type taskWaitCmd struct {
	ID string `arg:"" help:"As enqueue prints it."`
}

// Help is shown by --help.
func (taskWaitCmd) Help() string {
	return `Exit code 0 when it completed, 1 when it failed:

  neuronmill task wait t_01a20ef874267941adb4e9ec016f1db6 | jq .output`
}

// Run waits for a result.
func (c *taskWaitCmd) Run(g *globals) error {
	return showResult(g, c.ID, true)
}

type taskResultCmd struct {
	ID string `arg:"" help:"As enqueue prints it."`
}

// Help is shown by --help.
func (taskResultCmd) Help() string {
	return `Exit code 0 when it completed, 1 when it failed or has not ended:

  neuronmill task result t_01a20ef874267941adb4e9ec016f1db6`
}

// Run prints a result that is there.
func (c *taskResultCmd) Run(g *globals) error { return showResult(g, c.ID, false) }

func showResult(g *globals, id string, wait bool) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	_, err = stack.Client.Get(g.ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	get := stack.Client.Result
	if wait {
		get = stack.Client.Wait
	}
	r, err := get(g.ctx, id)
	if errors.Is(err, tasks.ErrNotFound) {
		return fmt.Errorf("%s has not ended; neuronmill task wait %s waits for it", id, id)
	}
	if err != nil {
		return err
	}
	document, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(g.stdout, "%s\n", document)
	if r.Status == tasks.Failed {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

type taskListCmd struct {
	Kind  tasks.Kind `placeholder:"KIND" help:"Only this kind."`
	Lane  tasks.Lane `help:"Only this lane."`
	State string     `placeholder:"STATE" help:"pending, scheduled, active, retry or archived."`
	Limit int        `default:"100" help:"At most so many."`
}

// Help is shown by --help.
func (taskListCmd) Help() string {
	return `The oldest come first in each queue; tasks that have ended are not listed, their results lie in the bucket.

  neuronmill task list
  neuronmill task list --kind embedding --lane bulk --state pending --limit 20`
}

// Run lists tasks.
func (c *taskListCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	list, err := stack.Client.List(g.ctx, tasks.ListFilter{Kind: c.Kind, Lane: c.Lane, State: c.State, Limit: c.Limit})
	if err != nil {
		return app.Usage(err)
	}
	w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tKIND\tLANE\tSTATE\tATTEMPTS\tCREATED\tMODEL")
	for _, i := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", i.ID, i.Kind, i.Lane, i.State, i.Attempts, i.CreatedAt.Format(time.RFC3339), i.Model)
	}
	return w.Flush()
}

type taskCancelCmd struct {
	ID string `arg:"" help:"As enqueue prints it."`
}

// Help is shown by --help.
func (taskCancelCmd) Help() string {
	return `One that waits ends as failed with the code "cancelled"; a call that is under way is paid for, so it ends first.

  neuronmill task cancel t_01a20ef874267941adb4e9ec016f1db6`
}

// Run cancels a task.
func (c *taskCancelCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	if err := stack.Client.Cancel(g.ctx, c.ID); err != nil {
		return fmt.Errorf("%s: %w", c.ID, err)
	}
	fmt.Fprintln(g.stdout, c.ID, "ends before its next call")
	return nil
}

type taskRetryCmd struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"As enqueue prints them."`
	Failed bool     `help:"All failed tasks that the other flags let through."`
	deadFilter
}

// Help is shown by --help.
func (taskRetryCmd) Help() string {
	return `A result is never rewritten: a new task has an id of its own, which is printed.

  neuronmill task retry t_01a20ef874267941adb4e9ec016f1db6
  neuronmill task retry --failed --code attempts_exhausted`
}

// Run enqueues failed tasks again.
func (c *taskRetryCmd) Run(g *globals) error {
	again := deadRetryCmd{IDs: c.IDs, All: c.Failed, deadFilter: c.deadFilter}
	return again.Run(g)
}
