package main

import (
	"context"
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

  neuronmill enqueue text "Name three rivers" --deadline 10m
  neuronmill enqueue embedding - --lane bulk < titles.txt > ids.txt
  neuronmill enqueue text --payload - --idempotency-key monday < requests.jsonl

A bad line is told with its number and the others go on; the exit code is 1 then, or 2 where nothing was accepted.
neuronmill task wait ID waits for a result.`
}

type enqueueOne struct{}

// chunk is how many inputs go to the client at a time.
const chunk = 200

// enqueue puts the inputs into the queue, a chunk in one round trip.
func (c kindCmd[F, C]) enqueue(g *globals) error {
	if err := c.check(g); err != nil {
		return err
	}
	stack, err := app.Open(g.ctx, g.settings, c.Options.AllowUnknownModel, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	bar := newProgress(g.stderr, "accepted", c.total(g))
	defer bar.stop()
	var (
		tally    counts
		requests []tasks.Request
		lines    []int
		broken   error
	)
	told := func(n int, err error) {
		tally.add(err)
		switch {
		case err == nil:
			bar.add(1)
		case !refusal(err) && broken == nil:
			broken = fmt.Errorf("%w; what was accepted before stays accepted, and with --idempotency-key the whole can be repeated", c.at(n, err))
		case refusal(err):
			bar.say(g.stderr, "neuronmill: %s", c.at(n, err))
		}
	}
	flush := func() {
		// Ctrl-C comes before or after it, so that nobody need ask which tasks run.
		accepted, errs := stack.Client.EnqueueMany(context.WithoutCancel(g.ctx), requests)
		for i, err := range errs {
			if err == nil {
				fmt.Fprintln(g.stdout, accepted[i].ID)
			}
			told(lines[i], err)
		}
		requests, lines = requests[:0], lines[:0]
	}
	for in := range c.each(g) {
		p, err := in.payload, in.err
		if err == nil {
			p, err = upload(g.ctx, stack.Store, p)
		}
		if err == nil {
			requests = append(requests, tasks.Request{Payload: p, Options: c.Options.of(in.n, c.several())})
			lines = append(lines, in.n)
		} else {
			told(in.n, err)
		}
		if len(requests) == chunk {
			flush()
		}
		if broken != nil {
			break
		}
	}
	if len(requests) > 0 && broken == nil && g.ctx.Err() == nil {
		flush()
	}
	bar.stop()
	if c.several() {
		fmt.Fprintf(g.stderr, "%d accepted (durable by %s), %d refused\n", tally.done, c.Options.Accept, tally.refused)
	}
	if g.ctx.Err() != nil {
		broken = errors.New("interrupted; what was accepted stays accepted")
	}
	return tally.verdict(broken)
}

// counts is how the inputs of a command ended.
type counts struct {
	done, failed int
	refused      int // at the door
	open         int // in the queue still
}

func (t *counts) add(err error) {
	switch {
	case err == nil:
		t.done++
	case refusal(err):
		t.refused++
	default:
		t.failed++
	}
}

// verdict is the exit code of a command, with what is to be said beside it.
func (t counts) verdict(why error) error {
	switch {
	case why != nil || t.failed > 0 || t.open > 0 || t.refused > 0 && t.done > 0:
		return &app.Exit{Code: app.ExitFailed, Err: why}
	case t.refused > 0:
		return &app.Exit{Code: app.ExitUsage}
	}
	return nil
}

// refusal tells what is wrong with an input from what is wrong with the way to the
// queue.
func refusal(err error) bool {
	var problems tasks.Problems
	return errors.As(err, &problems) || errors.Is(err, tasks.ErrIdempotencyMismatch)
}

// at says which of several inputs an error is about.
func (c kindCmd[F, C]) at(n int, err error) error {
	switch {
	case isStdin(c.Input):
		return fmt.Errorf("line %d: %w", n, err)
	case c.several():
		return fmt.Errorf("input %d: %w", n, err)
	}
	return err
}

// several reports whether there may be more inputs than one.
func (c kindCmd[F, C]) several() bool { return isStdin(c.Input) || len(c.Input) > 1 }

// total is how many inputs there are; 0 when nobody knows.
func (c kindCmd[F, C]) total(g *globals) int64 {
	if isStdin(c.Input) {
		return countLines(g.stdin)
	}
	return int64(max(len(c.Input), 1))
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
		for in := range inputs(g.ctx, args, g.stdin) {
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
