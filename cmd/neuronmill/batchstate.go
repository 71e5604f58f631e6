package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/tasks"
)

// batchArg is the id of a batch.
type batchArg struct {
	ID string `arg:"" help:"As submit prints it."`
}

// with opens the stack for a command about one batch, which must exist.
func (a batchArg) with(g *globals, do func(stack *app.Stack, b *batch.Batches) error) error {
	stack, err := app.Open(g.ctx, g.settings, false, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	err = do(stack, batches(stack, g))
	if errors.Is(err, batch.ErrNotFound) {
		return fmt.Errorf("there is no batch %s; neuronmill batch list shows all", a.ID)
	}
	return err
}

type batchStatusCmd struct {
	batchArg
	JSON     bool `name:"json" help:"Print the state as JSON."`
	Failures bool `help:"Group the failed lines by code and message."`
}

// Help is shown by --help.
func (batchStatusCmd) Help() string {
	return examples("neuronmill batch status b_0199...", "neuronmill batch status b_0199... --failures")
}

// Run prints the state of a batch.
func (c *batchStatusCmd) Run(g *globals) error {
	return c.with(g, func(stack *app.Stack, b *batch.Batches) error {
		s, err := b.State(g.ctx, c.ID)
		if err != nil {
			return err
		}
		var failures []*batch.Failures
		if c.Failures {
			if failures, err = b.FailuresOf(g.ctx, c.ID); err != nil {
				return err
			}
		}
		if c.JSON {
			return json.NewEncoder(g.stdout).Encode(struct {
				*batch.State
				Failures []*batch.Failures `json:"failures,omitempty"`
			}{s, failures})
		}
		if s.Spend == tasks.SpendFree {
			s.Name += "  (spends the free allocation only)"
		}
		fmt.Fprintf(g.stdout, "%s  %s  %s\n%d of %d lines: %d completed, %d failed, %s\n", s.ID, s.Status, s.Name, s.Completed+s.Failed, s.Lines, s.Completed, s.Failed, costs(s.Counts))
		switch {
		case s.Status == batch.Stopped:
			fmt.Fprintln(g.stdout, "it stopped itself:", s.Why)
		case s.Cancelled && s.EndedAt.IsZero():
			fmt.Fprintln(g.stdout, "its cancellation was requested")
		case s.Why != "":
			fmt.Fprintln(g.stdout, "waiting:", s.Why)
		case s.Status == batch.Waiting && s.ByWorkers:
			fmt.Fprintln(g.stdout, "waiting: no process drives it; workers take it within seconds: neuronmill worker")
		case s.Status == batch.Waiting:
			fmt.Fprintln(g.stdout, "waiting: the same neuronmill batch run continues it")
		case s.Task != "" && s.EndedAt.IsZero():
			_, why := reason(g, stack, s.Task)
			fmt.Fprintln(g.stdout, "waiting:", why)
		}
		for _, f := range failures {
			fmt.Fprintf(g.stdout, "%d lines: %s: %s (%s)\n", f.Lines, f.Code, f.Message, strings.Join(f.IDs, ", "))
			fmt.Fprintln(g.stdout, "    "+f.Do)
		}
		return nil
	})
}

type batchWaitCmd struct {
	batchArg
	batchOutput
}

// Help is shown by --help.
func (batchWaitCmd) Help() string {
	return examples("neuronmill batch wait b_0199...", "neuronmill batch wait b_0199... -o results.jsonl") + `
Exit code 0: all lines completed; 1: some failed.`
}

// waitEvery is the interval at which wait asks for the state.
const waitEvery = time.Second

// Run waits for the end of a batch.
func (c *batchWaitCmd) Run(g *globals) error {
	return c.with(g, func(stack *app.Stack, b *batch.Batches) error {
		s, err := b.State(g.ctx, c.ID)
		if err != nil {
			return err
		}
		bar := newProgress(g, "lines", int64(s.Lines))
		defer bar.stop()
		shown := &batchProgress{bar: bar, why: explain(g, stack, bar)}
		defer shown.why.stop()
		for s.EndedAt.IsZero() {
			why := s.Why
			if s.Status == batch.Waiting && why == "" {
				why = "no process drives the batch; does a worker run?"
			}
			shown.show(batch.Progress{Counts: s.Counts, Total: s.Lines, Waiting: s.Task, Why: why})
			select {
			case <-g.ctx.Done():
				return errors.New("interrupted; the batch goes on")
			case <-time.After(waitEvery):
			}
			if s, err = b.State(g.ctx, c.ID); err != nil {
				return err
			}
		}
		bar.stop()
		if c.Output != "" {
			if err := c.write(g.ctx, g, b, c.ID); err != nil {
				return err
			}
		}
		return reportEnd(g, c.ID, &batch.End{Status: s.Status, Why: s.Why, Counts: s.Counts})
	})
}

type batchResultsCmd struct {
	batchArg
	batchOutput
}

// Help is shown by --help.
func (batchResultsCmd) Help() string {
	return examples("neuronmill batch results b_0199... -o results.jsonl.gz", "neuronmill batch results b_0199... --format vectorize > vectors.jsonl") + `
While the batch runs, the output has the lines up to the first part that is not complete.`
}

// Run prints the output of a batch.
func (c *batchResultsCmd) Run(g *globals) error {
	return c.with(g, func(_ *app.Stack, b *batch.Batches) error { return c.write(g.ctx, g, b, c.ID) })
}

type batchTailCmd struct{ batchArg }

// Help is shown by --help.
func (batchTailCmd) Help() string {
	return examples("neuronmill batch tail b_0199...") + `
Prints the lines of output in the order of the input, each part once it is stored, until the batch ends. Ctrl-C leaves the batch as it is.
Exit code 0: all lines completed; 1: some failed.`
}

// tailEvery is the interval at which tail looks for further output.
const tailEvery = 2 * time.Second

// Run prints the output of a batch as it comes.
func (c *batchTailCmd) Run(g *globals) error {
	return c.with(g, func(_ *app.Stack, b *batch.Batches) error {
		for segment := 0; ; {
			s, err := b.State(g.ctx, c.ID) // before the output, so that the output of an ended batch is whole
			if err == nil {
				segment, _, err = b.WriteOutputFrom(g.ctx, c.ID, segment, g.stdout)
			}
			if err != nil {
				return err
			}
			if !s.EndedAt.IsZero() {
				return reportEnd(g, c.ID, &batch.End{Status: s.Status, Why: s.Why, Counts: s.Counts})
			}
			select {
			case <-g.ctx.Done():
				return errors.New("interrupted; the batch goes on")
			case <-time.After(tailEvery):
			}
		}
	})
}

type batchCancelCmd struct{ batchArg }

// Help is shown by --help.
func (batchCancelCmd) Help() string {
	return examples("neuronmill batch cancel b_0199...") + `
Calls under way are finished, since they are paid for. Lines that were not run fail with batch_cancelled; neuronmill batch retry runs them after all.`
}

// Run cancels a batch.
func (c *batchCancelCmd) Run(g *globals) error {
	return c.with(g, func(_ *app.Stack, b *batch.Batches) error { return b.Cancel(g.ctx, c.ID) })
}

type batchRetryCmd struct {
	batchArg
	batchOutput
	batchCap
	Failed bool   `help:"Run the failed, cancelled, expired and stopped lines: what retry does."`
	Model  string `placeholder:"ID" help:"With another model."`
	Patch  string `placeholder:"JSON" help:"A JSON merge patch for the input of each line: {\"max_tokens\": 500}; null removes a field."`
}

// Help is shown by --help.
func (batchRetryCmd) Help() string {
	return examples("neuronmill batch retry b_0199... --failed", "neuronmill batch retry b_0199... --failed --model bge-m3", `neuronmill batch retry b_0199... --failed --patch '{"max_tokens": 500}'`) + `
The ids stay, and the output has the new lines in their places. A batch that neuronmill batch run drove is driven here, a submitted one by the workers.`
}

// Run runs the failed lines of a batch.
func (c *batchRetryCmd) Run(g *globals) error {
	return c.with(g, func(stack *app.Stack, b *batch.Batches) error {
		o := batch.RetryOptions{Model: wholeModel(c.Model), MaxNeurons: c.MaxNeurons}
		if c.Patch != "" {
			o.Patch = []byte(c.Patch)
		}
		d, err := b.Retry(g.ctx, c.ID, o)
		if err != nil {
			return err
		}
		if d.ByWorkers {
			return nil
		}
		return c.drive(g, stack, b, d, false)
	})
}

type batchListCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

// Help is shown by --help.
func (batchListCmd) Help() string { return examples("neuronmill batch list") }

// batchesListed is the most batches that list shows.
const batchesListed = 1000

// Run lists the batches.
func (c *batchListCmd) Run(g *globals) error {
	stack, err := app.Open(g.ctx, g.settings, false, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	b := batches(stack, g)
	var all []*batch.State
	for id, err := range b.IDs(g.ctx) {
		if err != nil {
			return err
		}
		s, err := b.State(g.ctx, id)
		if errors.Is(err, batch.ErrNotFound) {
			continue // it is being written
		}
		if err != nil {
			return err
		}
		if all = append(all, s); len(all) == batchesListed {
			fmt.Fprintf(g.stderr, "neuronmill: there are more than %d batches\n", batchesListed)
			break
		}
	}
	slices.SortFunc(all, func(a, b *batch.State) int { return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID)) })
	if c.JSON {
		encoder := json.NewEncoder(g.stdout)
		for _, s := range all {
			if err := encoder.Encode(s); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(column{name: "BATCH"}, column{name: "STATUS"}, column{name: "LINES"}, column{name: "DONE"}, column{name: "FAILED"}, column{name: "CREATED"}, column{name: "FILE", least: 6})
	for _, s := range all {
		t.add(s.ID, s.Status, s.Lines, s.Completed+s.Failed, s.Failed, s.CreatedAt.Format(time.DateTime), s.Name)
	}
	return t.print(g.stdout)
}
