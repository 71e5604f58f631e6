package main

import (
	"errors"
	"fmt"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

type enqueueCmd struct {
	kinds[enqueueOne]
}

// Help is shown by --help.
func (enqueueCmd) Help() string {
	return `One id a line on stdout. With - each line of stdin is an input; any number of them pass in little memory:

  neuronmill enqueue embedding - --lane bulk < titles.txt
  neuronmill enqueue text --payload - - < requests.jsonl

A bad line is told with its number, the others go on, and the exit code is 1.`
}

type enqueueOne struct{}

// chunk is how many inputs go to the client at a time.
const chunk = 200

// Run enqueues the inputs.
func (c kindCmd[F, C]) enqueue(g *globals) error {
	if err := c.check(); err != nil {
		return err
	}
	stack, err := app.Open(g.ctx, g.settings, c.Options.AllowUnknownModel, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	bulk := len(c.Input) == 1 && c.Input[0] == "-"
	bar := newProgress(g.stderr, "enqueued")
	defer bar.stop()
	var (
		requests []tasks.Request
		lines    []int
		bad, all int
	)
	flush := func() {
		accepted, errs := stack.Client.EnqueueMany(g.ctx, requests)
		for i, err := range errs {
			if err != nil {
				bad++
				bar.say(g.stderr, "%s", lineError(lines[i], bulk, err))
				continue
			}
			fmt.Fprintln(g.stdout, accepted[i].ID)
			bar.add(1)
		}
		requests, lines = requests[:0], lines[:0]
	}
	for in := range c.each(g) {
		all++
		p, err := in.payload, in.err
		if err == nil {
			p, err = upload(g.ctx, stack.Store, p)
		}
		if err != nil {
			bad++
			bar.say(g.stderr, "%s", lineError(in.n, bulk, err))
			continue
		}
		requests = append(requests, tasks.Request{Payload: p, Options: c.Options.of(in.n, bulk || len(c.Input) > 1)})
		lines = append(lines, in.n)
		if len(requests) == chunk {
			flush()
		}
		if g.ctx.Err() != nil {
			break
		}
	}
	if len(requests) > 0 && g.ctx.Err() == nil {
		flush()
	}
	bar.stop()
	return ended(g, all, bad, bulk, c.Options.Accept)
}

// ended is how a command over several inputs ends.
func ended(g *globals, all, bad int, bulk bool, durability string) error {
	if bulk {
		fmt.Fprintf(g.stderr, "%d lines: %d accepted (durable by %s), %d refused\n", all, all-bad, durability, bad)
	}
	switch {
	case g.ctx.Err() != nil:
		return &app.Exit{Code: app.ExitFailed, Err: errors.New("interrupted; what was accepted stays accepted")}
	case bad > 0 && !bulk:
		return &app.Exit{Code: app.ExitUsage}
	case bad > 0:
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

func lineError(n int, bulk bool, err error) string {
	if bulk {
		return fmt.Sprintf("line %d: %v", n, err)
	}
	return "neuronmill: " + err.Error()
}

// parsed is an input with its payload.
type parsed struct {
	n       int
	payload tasks.Payload
	err     error
}

// each gives the payloads of all inputs.
func (c kindCmd[F, C]) each(g *globals) func(func(parsed) bool) {
	return func(yield func(parsed) bool) {
		args := c.Input
		if len(args) == 0 {
			args = []string{""} // --payload alone
		}
		for in := range inputs(args, g.stdin) {
			p := parsed{n: in.n, err: in.err}
			if p.err == nil {
				p.payload, p.err = c.payload(in.text)
			}
			if !yield(p) {
				return
			}
		}
	}
}
