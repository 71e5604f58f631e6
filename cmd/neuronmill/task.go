package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/tasks"
)

type taskCmd struct {
	Get    taskGetCmd    `cmd:"" help:"Say where a task stands."`
	Wait   taskWaitCmd   `cmd:"" help:"Wait for the end of tasks and print their result documents."`
	Result taskResultCmd `cmd:"" help:"Print result documents."`
	Follow taskFollowCmd `cmd:"" help:"Print a task's text while the model writes it, and what the task waits for."`
	Fetch  taskFetchCmd  `cmd:"" help:"Copy the files of results out of the bucket."`
	List   taskListCmd   `cmd:"" help:"List tasks: those that have not ended, then those that have."`
	Cancel taskCancelCmd `cmd:"" help:"End a task before its next call."`
	Retry  taskRetryCmd  `cmd:"" help:"Run failed tasks again, as new ones: by id, or --failed with --code, --kind, --limit."`
}

// Help is shown by --help.
func (taskCmd) Help() string {
	return examples(
		"neuronmill task list --kind text --state retry",
		"neuronmill task get t_01a20ef874267941",
		"neuronmill task wait - < ids.txt > results.jsonl",
		"neuronmill task fetch t_01a20ef874267941 -o pictures/",
	) + `
An id is what enqueue prints, or a beginning of it that is no other task's.`
}

// client opens the stack for a command that reads tasks.
func client(g *globals) (*app.Stack, error) {
	stack, err := app.Open(g.ctx, g.settings, false, g.log)
	return stack, app.Usage(err)
}

type taskGetCmd struct {
	ID   string `arg:"" help:"As enqueue prints it, or its beginning."`
	JSON bool   `name:"json" help:"One JSON object."`
}

// Help is shown by --help.
func (taskGetCmd) Help() string {
	return examples("neuronmill task get t_01a20ef874267941") + `
What it is, what it waits for and until when, or where its result lies.`
}

// standingJSON is a task as --json prints it.
type standingJSON struct {
	ID        string        `json:"id"`
	Kind      tasks.Kind    `json:"kind"`
	Lane      tasks.Lane    `json:"lane,omitempty"`
	Model     string        `json:"model"`
	State     string        `json:"state"`
	Attempts  int           `json:"attempts"`
	CreatedAt time.Time     `json:"created_at"`
	Deadline  time.Time     `json:"deadline,omitzero"`
	NextRun   time.Time     `json:"next_run,omitzero"`
	LastError string        `json:"last_error,omitempty"`
	Waiting   string        `json:"waiting,omitempty"`
	Result    *tasks.Result `json:"result,omitempty"`
}

// openTask opens the stack of a client and finds the whole id of a task. The caller closes
// the stack.
func openTask(g *globals, typed string) (stack *app.Stack, id string, err error) {
	if stack, err = client(g); err != nil {
		return nil, "", err
	}
	if id, err = resolve(g.ctx, stack, typed); err != nil {
		stack.Close()
		return nil, "", err
	}
	return stack, id, nil
}

// Run prints a task's state.
func (c *taskGetCmd) Run(g *globals) error {
	stack, id, err := openTask(g, c.ID)
	if err != nil {
		return err
	}
	defer stack.Close()
	info, err := stack.Client.Get(g.ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	waiting, do := "", ""
	if info.Result == nil {
		w, err := stack.Monitor().WaitingOn(g.ctx, stack.Gate(g.settings, 0, g.log), info)
		if err != nil {
			return err
		}
		waiting, do = w.String(), w.Do
	}
	if c.JSON {
		return json.NewEncoder(g.stdout).Encode(standingJSON{
			ID: info.ID, Kind: info.Kind, Lane: info.Lane, Model: info.Model, State: stateOf(info), Attempts: info.Attempts, CreatedAt: info.CreatedAt,
			Deadline: info.Deadline, NextRun: info.NextRun, LastError: info.LastError, Waiting: waiting, Result: info.Result,
		})
	}
	w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("id", info.ID)
	row("kind", info.Kind)
	row("model", info.Model)
	row("state", stateOf(info))
	row("attempts", info.Attempts)
	row("created", info.CreatedAt.Format(time.RFC3339))
	if key := info.Metadata[rowKey]; key != "" {
		row("key", key)
	}
	if info.LastError != "" {
		row("last error", info.LastError)
	}
	if !info.NextRun.IsZero() {
		row("next run", info.NextRun.Format(time.RFC3339))
	}
	if info.Result == nil {
		row("deadline", info.Deadline.Format(time.RFC3339))
		row("waiting on", waiting)
		if do != "" && !strings.Contains(waiting, do) {
			row("what helps", do)
		}
		return w.Flush()
	}
	row("result", located(g.settings, objects.ResultKey(objects.DefaultTenant, info.ID)))
	for _, a := range info.Result.Artefacts {
		row("file", located(g.settings, a.Key))
	}
	if info.Result.Error != nil {
		row("error", info.Result.Error)
	}
	return w.Flush()
}

// stateOf returns the state of a task in one word.
func stateOf(info tasks.Info) string {
	if info.Cancelled && info.Result == nil {
		return "cancelling"
	}
	return info.State
}

type taskListCmd struct {
	Kind  tasks.Kind    `placeholder:"KIND" help:"Only this kind."`
	Lane  tasks.Lane    `placeholder:"LANE" help:"Only this lane."`
	State string        `placeholder:"STATE" help:"pending, scheduled, active, retry or archived; completed, failed, or ended for both."`
	Code  string        `placeholder:"CODE" help:"Only ended tasks with this error code."`
	Since time.Duration `placeholder:"DURATION" help:"Only ended tasks, and no older ones: 1h."`
	Limit int           `default:"100" help:"At most so many."`
}

// Help is shown by --help.
func (taskListCmd) Help() string {
	return examples(
		"neuronmill task list",
		"neuronmill task list --kind embedding --lane bulk --state pending",
		"neuronmill task list --state failed --code deadline_exceeded --since 24h",
	) + `
The oldest come first in each queue; tasks that have ended follow, the latest first. TIME is when a task was accepted, or ended. Those of the last 7 days are listed, at most 100,000; results of all times lie in the bucket.`
}

// Run lists tasks.
func (c *taskListCmd) Run(g *globals) error {
	if c.Limit < 1 {
		return app.Usage(errors.New("--limit wants a number from 1"))
	}
	if c.Since < 0 {
		return app.Usage(errors.New("--since wants a duration such as 1h"))
	}
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	t := newTable(column{name: "ID", shorten: shortIDs}, column{name: "KIND", least: 5}, column{name: "LANE", least: 4}, column{name: "STATE"},
		column{name: "ATTEMPTS", brief: "TRIES"}, column{name: "TIME", shorten: shortTimes},
		column{name: "MODEL", shorten: shortModels, least: 10}, column{name: "CODE", least: 8})
	left, err := c.addQueued(g, stack, t)
	if err != nil {
		return err
	}
	if err := c.addEnded(g, stack, t, left); err != nil {
		return err
	}
	return t.print(g.stdout)
}

// onlyEnded reports whether the flags leave out tasks that have not ended.
func (c *taskListCmd) onlyEnded() bool {
	return slices.Contains([]string{"ended", string(tasks.Completed), string(tasks.Failed)}, c.State) || c.Code != "" || c.Since > 0
}

// addQueued adds the tasks that have not ended. It returns how many more may be listed.
func (c *taskListCmd) addQueued(g *globals, stack *app.Stack, t *table) (left int, err error) {
	if c.onlyEnded() {
		return c.Limit, nil
	}
	list, err := stack.Client.List(g.ctx, tasks.ListFilter{Kind: c.Kind, Lane: c.Lane, State: c.State, Limit: c.Limit})
	if err != nil {
		return 0, app.Usage(err)
	}
	for _, i := range list {
		t.add(i.ID, i.Kind, i.Lane, stateOf(i), i.Attempts, i.CreatedAt.Format(time.RFC3339), i.Model, "")
	}
	return c.Limit - len(list), nil
}

// addEnded adds up to limit ended tasks from the index.
func (c *taskListCmd) addEnded(g *globals, stack *app.Stack, t *table, limit int) error {
	if c.State != "" && !c.onlyEnded() {
		return nil
	}
	f := index.Filter{Kind: c.Kind, Lane: c.Lane, Code: c.Code}
	if c.State != "" && c.State != "ended" {
		f.Status = tasks.Status(c.State)
	}
	if c.Since > 0 {
		f.Since = time.Now().Add(-c.Since)
	}
	for limit > 0 {
		f.Limit = limit
		page, err := stack.Index().Find(g.ctx, objects.DefaultTenant, f)
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			t.add(e.ID, e.Kind, e.Lane, e.Status, "", e.FinishedAt.Format(time.RFC3339), e.Model, e.Code)
		}
		if limit, f.After = limit-len(page.Entries), page.Next; f.After.IsZero() {
			return nil
		}
	}
	return nil
}

type taskCancelCmd struct {
	ID string `arg:"" help:"As enqueue prints it, or its beginning."`
}

// Help is shown by --help.
func (taskCancelCmd) Help() string {
	return examples("neuronmill task cancel t_01a20ef874267941") + `
One that waits ends as failed with the code "cancelled"; a call that is under way is paid for, so it ends first.`
}

// Run cancels a task.
func (c *taskCancelCmd) Run(g *globals) error {
	stack, id, err := openTask(g, c.ID)
	if err != nil {
		return err
	}
	defer stack.Close()
	if err := stack.Client.Cancel(g.ctx, id); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	text := "ends before its next call"
	if info, err := stack.Client.Get(g.ctx, id); err == nil && info.Result == nil {
		workers, err := stack.Monitor().Workers(g.ctx)
		if missing := monitor.Missing(workers, info.Kind, info.Lane); err == nil && missing != "" {
			text = "ends once a worker runs: " + missing
		}
	}
	fmt.Fprintln(g.stdout, id, text)
	return nil
}

type taskRetryCmd struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"As enqueue prints them."`
	Failed bool     `help:"All failed tasks that the other flags let through."`
	deadFilter
}

// Help is shown by --help.
func (taskRetryCmd) Help() string {
	return examples("neuronmill task retry t_01a20ef874267941", "neuronmill task retry --failed --code attempts_exhausted") + `
A result is never rewritten: a new task has an id of its own, which is printed.`
}

// Run enqueues failed tasks again.
func (c *taskRetryCmd) Run(g *globals) error {
	again := deadRetryCmd{IDs: c.IDs, All: c.Failed, deadFilter: c.deadFilter}
	return again.Run(g)
}
