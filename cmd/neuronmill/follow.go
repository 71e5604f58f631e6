package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/tasks"
)

type taskFollowCmd struct {
	ID   string `arg:"" help:"As enqueue prints it, or its beginning."`
	JSON bool   `name:"json" help:"Print the events, one JSON object a line."`
}

// Help is shown by --help.
func (taskFollowCmd) Help() string {
	return examples("neuronmill task follow t_01a20ef874267941", "neuronmill task follow t_01a20ef874267941 --json") + `
Text goes to stdout as the model writes it, everything else to stderr. Text that follows "begins anew" is another attempt. Exit code 1 if the task fails.`
}

// Run follows a task to its end.
func (c *taskFollowCmd) Run(g *globals) error {
	stack, id, err := openTask(g, c.ID)
	if err != nil {
		return err
	}
	defer stack.Close()
	hub := events.NewHub(stack.Redis.UniversalClient, g.log)
	ctx, cancel := context.WithCancel(g.ctx)
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }()
	defer func() { cancel(); <-ended }() //nolint:errcheck // it ended because of cancel
	f, err := hub.Follow(ctx, id, 0, events.SnapshotOf(stack.Client, objects.DefaultTenant, id))
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	defer f.Close()
	out := followed{g: g, json: c.JSON}
	for {
		e, err := f.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return out.end(stack, id)
		case err != nil:
			return fmt.Errorf("follow %s: %w", id, err)
		}
		if err := out.print(e); err != nil {
			return err
		}
	}
}

// followed prints the events of a task.
type followed struct {
	g      *globals
	json   bool
	text   strings.Builder // of this attempt, as printed
	status tasks.Status
}

func (o *followed) print(e events.Event) error {
	if e.Type == events.Done {
		o.status = e.Status
	}
	if o.json {
		return json.NewEncoder(o.g.stdout).Encode(e)
	}
	switch e.Type {
	case events.Text:
		if e.Offset != o.text.Len() {
			return nil // a part is missing or repeated: the result has the whole
		}
		o.text.WriteString(e.Text)
		_, err := io.WriteString(o.g.stdout, e.Text)
		return err
	case events.Running:
		if o.text.Len() > 0 {
			fmt.Fprintln(o.g.stdout)
			fmt.Fprintln(o.g.stderr, "begins anew")
		}
		o.text.Reset()
	case events.Waiting:
		until := ""
		if !e.Until.IsZero() {
			until = " until " + e.Until.Format(time.RFC3339)
		}
		fmt.Fprintf(o.g.stderr, "waits: %s%s\n", e.Reason, until)
	case events.Queued:
		fmt.Fprintln(o.g.stderr, "queued")
	}
	return nil
}

// end prints the part of the text that was not followed, and fails for a failed task.
func (o *followed) end(stack *app.Stack, id string) error {
	r, err := stack.Client.Result(o.g.ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if r.Error != nil {
		return &app.Exit{Code: app.ExitFailed, Err: fmt.Errorf("%s: %w", id, r.Error)}
	}
	var output tasks.TextOutput
	if o.json || r.Kind != tasks.KindText || json.Unmarshal(r.Output, &output) != nil {
		return nil
	}
	fmt.Fprintln(o.g.stdout, unwritten(output.Text, o.text.String()))
	return nil
}

// unwritten returns the part of a text after the part that is on the screen, or all of it
// on a line of its own if the screen has another one.
func unwritten(text, written string) string {
	rest, ok := strings.CutPrefix(text, written)
	if !ok {
		return "\n" + text
	}
	return rest
}
