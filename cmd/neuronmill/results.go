package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// idArgs are the task ids of a command that accepts several.
type idArgs struct {
	IDs []string `arg:"" name:"id" help:"As enqueue prints them, or their beginnings; - reads one a line from stdin."`
}

// named is a task given on the command line or stdin.
type named struct {
	typed string // the text as given, with its line number
	id    string
	err   error
}

func (n named) String() string {
	if n.id != "" {
		return n.id
	}
	return n.typed
}

// several reports whether there may be more than one task.
func (a idArgs) several() bool { return isStdin(a.IDs) || len(a.IDs) > 1 }

// each yields the tasks. A line of stdin may have more text after the id, such as the row
// keys that enqueue prints.
func (a idArgs) each(g *globals, stack *app.Stack) iter.Seq[named] {
	return func(yield func(named) bool) {
		for in := range inputs(g.ctx, a.IDs, g.stdin) {
			if in.blank {
				continue
			}
			n := named{typed: in.text, err: in.err}
			if isStdin(a.IDs) {
				n.typed = fmt.Sprintf("line %d", in.n)
			}
			words := strings.Fields(in.text)
			if n.err == nil && len(words) == 0 {
				n.err = errors.New("an id is empty")
			}
			if n.err == nil {
				n.id, n.err = resolve(g.ctx, stack, words[0])
			}
			if !yield(n) {
				return
			}
		}
	}
}

type taskWaitCmd struct {
	idArgs
}

// Help is shown by --help.
func (taskWaitCmd) Help() string {
	return examples(
		"neuronmill task wait t_01a20ef874267941 | jq .output",
		"neuronmill task wait - < ids.txt > results.jsonl",
	) + `
One document for one id; of several, one a line, in the order of the ids. It ends soon after the deadline of the tasks, unless a call is under way.
Exit code 0: all completed; 1: some failed, or have no result.`
}

// Run waits for results.
func (c *taskWaitCmd) Run(g *globals) error { return printResults(g, c.idArgs, true) }

type taskResultCmd struct {
	idArgs
}

// Help is shown by --help.
func (taskResultCmd) Help() string {
	return examples(
		"neuronmill task result t_01a20ef874267941",
		"neuronmill task result - < ids.txt > results.jsonl",
	) + `
One document for one id; of several, one a line, in the order of the ids.
Exit code 0: all completed; 1: some failed, or have no result yet.`
}

// Run prints existing results.
func (c *taskResultCmd) Run(g *globals) error { return printResults(g, c.idArgs, false) }

// asked is a task whose result is being read.
type asked struct {
	named
	result chan outcome
}

// lookWindow is how many results are read in parallel.
const lookWindow = 100

// outcomes yields the results of tasks in order, and reads many in parallel.
func (a idArgs) outcomes(g *globals, stack *app.Stack, bar *progress, wait bool) iter.Seq2[named, outcome] {
	return func(yield func(named, outcome) bool) {
		ctx, cancel := context.WithCancel(g.ctx)
		defer cancel()
		inner := *g
		inner.ctx = ctx
		queue := make(chan asked, lookWindow)
		var group errgroup.Group
		group.SetLimit(lookWindow)
		defer group.Wait() //nolint:errcheck // it has none
		go func() {
			defer close(queue)
			for n := range a.each(&inner, stack) {
				w := asked{n, make(chan outcome, 1)}
				group.Go(func() error { w.result <- look(&inner, stack, n, wait); return nil })
				select {
				case queue <- w:
				case <-ctx.Done():
					return
				}
			}
		}()
		why := explain(&inner, stack, bar)
		defer why.stop()
		for w := range queue {
			why.of(w.id)
			o := <-w.result
			why.of("")
			if !yield(w.named, o) {
				return
			}
		}
	}
}

// look reads the result of a task.
func look(g *globals, stack *app.Stack, n named, wait bool) outcome {
	if n.err != nil {
		return outcome{err: n.err}
	}
	info, err := stack.Client.Get(g.ctx, n.id)
	switch {
	case err != nil:
		return outcome{err: notFound(n.id, err)}
	case info.Result != nil:
		return outcome{result: info.Result}
	case !wait:
		return outcome{err: fmt.Errorf("%s has not ended; neuronmill task wait %s waits for it", n.id, n.id)}
	}
	o := await(g, stack, n.id, info.Deadline)
	if o.err != nil {
		o.err = notFound(n.id, o.err)
	}
	return o
}

func printResults(g *globals, ids idArgs, wait bool) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	total := int64(len(ids.IDs))
	if isStdin(ids.IDs) {
		total = countLines(g.stdin)
	}
	bar := newProgress(g, "ended", total)
	defer bar.stop()
	bad := 0
	for n, o := range ids.outcomes(g, stack, bar, wait) {
		bar.add(1)
		switch {
		case g.ctx.Err() != nil:
			return errors.New("interrupted")
		case o.err != nil:
			bad++
			bar.say("neuronmill: %s", describe(n, o.err))
			continue
		case o.result.Status == tasks.Failed:
			bad++
		}
		document, err := json.Marshal(o.result)
		if err != nil {
			return err
		}
		if !ids.several() {
			var indented bytes.Buffer
			if err := json.Indent(&indented, document, "", "  "); err != nil {
				return err
			}
			document = indented.Bytes()
		}
		bar.print(g.stdout, string(document))
	}
	if bad > 0 {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

// describe adds the line of stdin to an error about a task, if the error does not name
// the id.
func describe(n named, err error) error {
	if n.id == "" && strings.HasPrefix(n.typed, "line ") {
		return fmt.Errorf("%s: %w", n.typed, err)
	}
	return err
}

type taskFetchCmd struct {
	idArgs
	Output string `short:"o" placeholder:"DIR" default:"." help:"The folder for the files, or the name of the one file."`
}

// Help is shown by --help.
func (taskFetchCmd) Help() string {
	return examples(
		"neuronmill task fetch t_01a20ef874267941",
		"neuronmill task fetch t_01a20ef874267941 -o mill.jpg",
		"neuronmill task fetch - -o pictures/ < ids.txt",
	) + `
In a folder a file is named after its task, or the key of its row: t_...-image.jpg, row-17-image.jpg. The paths are printed.
Exit code 0: all are there; 1: some are not.`
}

// Run copies the files of results.
func (c *taskFetchCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	files, err := newSaver(c.Output, c.several())
	if err != nil {
		return app.Usage(err)
	}
	bar := newProgress(g, "fetched", int64(len(c.IDs)))
	defer bar.stop()
	bad := 0
	for n, o := range c.outcomes(g, stack, bar, false) {
		err := o.err
		if err == nil && o.result.Error != nil {
			err = fmt.Errorf("%s failed: %w", n.id, o.result.Error)
		}
		if err == nil {
			err = fetch(g, stack.Store, files, o.result, bar)
		}
		if err != nil {
			bad++
			bar.say("neuronmill: %s", describe(n, err))
		}
		bar.add(1)
	}
	if bad > 0 {
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

func fetch(g *globals, from storage.Store, files saver, r *tasks.Result, bar *progress) error {
	paths, note, err := files.save(g.ctx, from, r, r.Metadata[rowKey], g.stdout)
	for _, p := range paths {
		bar.print(g.stdout, p)
	}
	if note != "" {
		bar.say("%s", note)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.ID, err)
	}
	return nil
}
