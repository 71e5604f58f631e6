package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

type runCmd struct {
	JSON bool `name:"json" help:"Print the result documents, one a line, in the order of the inputs."`
	kinds[runOne]
}

// Help is shown by --help.
func (runCmd) Help() string {
	return `Results go to stdout in the order of the inputs, everything else to stderr.

  neuronmill run text "Name three rivers"
  neuronmill run translation "Good morning" "Good night" --target-lang de
  neuronmill run image "a mill by a river" --json
  neuronmill run embedding - < titles.txt > vectors.jsonl

Without a Redis of your own it brings a worker with it.`
}

type runOne struct{}

// Run does the work of "run KIND" or "enqueue KIND", whichever this is.
func (c *kindCmd[F, C]) Run(g *globals) error {
	if _, ok := any(c.Command).(runOne); ok {
		return c.runAll(g, g.asJSON)
	}
	return c.enqueue(g)
}

// window is how many tasks of one command are under way at a time.
const window = 1000

// waiting is a task that was enqueued and its result to be.
type waiting struct {
	n      int
	id     string
	result chan outcome
}

type outcome struct {
	result *tasks.Result
	err    error
}

func (c kindCmd[F, C]) runAll(g *globals, asJSON bool) error {
	if err := c.check(g); err != nil {
		return err
	}
	stack, err := app.Open(g.ctx, g.settings, c.Options.AllowUnknownModel, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	ctx, fail := context.WithCancelCause(g.ctx)
	defer fail(nil)
	stopWorker, err := c.bringWorker(g, stack, fail)
	if err != nil {
		return err
	}
	defer stopWorker()
	outer, inner := g.ctx, *g
	inner.ctx, g = ctx, &inner

	bar := newProgress(g.stderr, "done", c.total(g))
	defer bar.stop()
	var (
		queue = make(chan waiting, window)
		wg    sync.WaitGroup
		tally counts
	)
	wg.Go(func() { c.print(g, queue, asJSON, bar, &tally) })
	for in := range c.each(g) {
		w := waiting{n: in.n, result: make(chan outcome, 1)}
		if w.id, err = c.enqueueOne(g, stack, in); err != nil {
			w.result <- outcome{err: err}
		} else {
			wg.Go(func() {
				r, err := stack.Client.Wait(g.ctx, w.id)
				w.result <- outcome{r, err}
			})
		}
		queue <- w
		if err != nil && !refusal(err) {
			break
		}
	}
	close(queue)
	wg.Wait()
	bar.stop()
	if c.several() {
		fmt.Fprintf(g.stderr, "%d completed, %d failed, %d refused, %d unfinished\n", tally.done, tally.failed, tally.refused, tally.open)
	}
	if outer.Err() != nil {
		return tally.verdict(errors.New("interrupted: unfinished tasks stay in the queue; neuronmill task wait ID waits for one"))
	}
	if why := context.Cause(ctx); why != nil {
		return tally.verdict(why)
	}
	return tally.verdict(nil)
}

// bringWorker starts a worker when the stack is this machine's own.
func (c kindCmd[F, C]) bringWorker(g *globals, stack *app.Stack, fail func(error)) (stop func(), err error) {
	if !strings.HasPrefix(g.settings.RedisURL, "embedded:") {
		return func() {}, nil
	}
	quiet := *g
	if g.settings.LogLevel == "info" {
		quiet.log = app.Logger(g.stderr, "warn") // the results tell the rest
	}
	return startWorker(&quiet, stack, fail)
}

// startWorker runs a worker of all kinds beside a command; stop waits for its end. fail
// is told when it ends before that: nobody does the tasks then.
func startWorker(g *globals, stack *app.Stack, fail func(error)) (stop func(), err error) {
	ai, note := app.OpenAI(g.settings)
	if note != "" {
		fmt.Fprintln(g.stderr, note)
	}
	worker, err := stack.Worker(g.settings, ai, app.WorkerOptions{}, g.log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.ctx))
	done := make(chan error, 1)
	go func() {
		err := worker.Run(ctx)
		if err != nil && ctx.Err() == nil {
			fail(err)
			err = nil // it is told
		}
		done <- err
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			g.log.Error("the worker stopped", "error", err)
		}
	}, nil
}

func (c kindCmd[F, C]) enqueueOne(g *globals, stack *app.Stack, in parsed) (string, error) {
	if in.err != nil {
		return "", in.err
	}
	p, err := upload(g.ctx, stack.Store, in.payload)
	if err != nil {
		return "", err
	}
	// Ctrl-C comes before or after it, so that nobody need ask whether the task runs.
	accepted, err := stack.Client.Enqueue(context.WithoutCancel(g.ctx), p, c.Options.of(in.n, c.several())...)
	return accepted.ID, err
}

// mostUnfinished is how many tasks are named that an interrupted command leaves behind.
const mostUnfinished = 10

// print prints results in the order of the inputs.
func (c kindCmd[F, C]) print(g *globals, queue <-chan waiting, asJSON bool, bar *progress, t *counts) {
	for w := range queue {
		o := <-w.result
		switch {
		case o.err != nil && w.id != "":
			if t.open++; t.open <= mostUnfinished {
				bar.say(g.stderr, "unfinished: %s", w.id)
			}
		case o.err != nil:
			t.add(o.err)
			bar.say(g.stderr, "neuronmill: %s", c.at(w.n, o.err))
		default:
			if o.result.Status == tasks.Completed {
				t.done++
			} else {
				t.failed++
				bar.say(g.stderr, "%s failed: %v", o.result.ID, o.result.Error)
			}
			printResult(g, o.result, asJSON)
		}
		bar.add(1)
	}
}

// printResult shows what a person or a pipe wants of a result.
func printResult(g *globals, r *tasks.Result, asJSON bool) {
	if asJSON {
		document, err := json.Marshal(r)
		if err == nil {
			fmt.Fprintf(g.stdout, "%s\n", document)
		}
		return
	}
	if r.Status != tasks.Completed {
		return
	}
	fmt.Fprintln(g.stdout, mainResult(r))
}

// mainResult is the one thing a task was done for.
func mainResult(r *tasks.Result) string {
	switch r.Kind {
	case tasks.KindTranscription:
		out, _ := tasks.OutputOf[tasks.TranscriptionOutput](r)
		return out.Text
	case tasks.KindImage:
		out, _ := tasks.OutputOf[tasks.ImageOutput](r)
		return out.Image
	case tasks.KindTranslation:
		out, _ := tasks.OutputOf[tasks.TranslationOutput](r)
		return out.TranslatedText
	case tasks.KindText:
		out, _ := tasks.OutputOf[tasks.TextOutput](r)
		if len(out.ToolCalls) == 0 {
			return out.Text
		}
		calls, _ := json.Marshal(out.ToolCalls)
		return strings.TrimSpace(out.Text + "\n" + string(calls))
	}
	return string(r.Output)
}
