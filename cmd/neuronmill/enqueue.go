package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

type enqueueCmd struct {
	kinds[enqueueOne, enqueueOne, enqueueOne]
}

// Help is shown by --help.
func (enqueueCmd) Help() string {
	return examples(
		`neuronmill enqueue text "Name three rivers" --deadline 10m`,
		`neuronmill enqueue embedding - --lane bulk < titles.txt > ids.txt`,
		`neuronmill enqueue text --payload - --idempotency-key monday < rows.jsonl`,
		`neuronmill task wait - < ids.txt > results.jsonl`,
	) + `
One id a line on stdout. With - each line of stdin is an input; any number of them pass in little memory. A blank line is no input.

A row may have a key of yours: a payload as a member of its own, {"key": "row-17", "prompt": "..."}, any other line with --keyed as row-17, a tab and the input.
The key is printed behind the id, with a tab between, and comes back as metadata.key of the result.

A bad line is told with its number and the others go on. Exit code 0: all accepted; 1: some not accepted; 2: none accepted, since all were refused.`
}

type enqueueOne struct{}

func (enqueueOne) verb() string  { return "enqueue" }
func (enqueueOne) file() string  { return "" }
func (enqueueOne) follows() bool { return false }

// chunk is how many inputs one call of the client accepts.
const chunk = 200

// enqueue enqueues the inputs, one chunk per round trip.
func (c kindCmd[F, C]) enqueue(g *globals) error {
	if err := c.check(g); err != nil {
		return err
	}
	stack, err := app.Open(g.ctx, g.settings, c.Options.AllowUnknownModel, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	bar := newProgress(g, "accepted", c.total(g))
	defer bar.stop()
	var (
		tally    counts
		requests []tasks.Request
		rows     []parsed
		broken   error
	)
	told := func(p parsed, err error) {
		tally.add(err)
		switch {
		case err == nil:
			bar.add(1)
		case refusal(err):
			bar.say("neuronmill: %s", c.at(p, err))
		case broken == nil:
			broken = fmt.Errorf("%w; what was accepted before stays accepted, and with --idempotency-key the whole can be repeated", c.at(p, err))
		}
	}
	flush := func() {
		// Ctrl-C does not interrupt a call, so that no outcome is unknown.
		for i, out := range stack.Client.EnqueueMany(context.WithoutCancel(g.ctx), requests) {
			if out.Err == nil {
				bar.print(g.stdout, idLine(out.ID, rows[i].key))
			}
			told(rows[i], out.Err)
		}
		requests, rows = requests[:0], rows[:0]
	}
	for p := range c.each(g) {
		if p.blank {
			continue
		}
		err := p.err
		if err == nil {
			p.payload, err = upload(g.ctx, stack.Store, p.payload)
		}
		if err == nil {
			requests = append(requests, tasks.Request{Payload: p.payload, Options: c.Options.of(p, c.several())})
			rows = append(rows, p)
		} else {
			told(p, err)
		}
		if len(requests) == chunk {
			flush()
		}
		if broken != nil {
			break
		}
	}
	if len(requests) > 0 && g.ctx.Err() == nil { // flushes the inputs before an unreadable one, too
		flush()
	}
	bar.stop()
	if c.several() {
		fmt.Fprintf(g.stderr, "%d accepted (%s), %d refused\n", tally.done, c.durability(stack), tally.refused)
	}
	if c.volatile(stack) && tally.done > 0 {
		fmt.Fprintln(g.stderr, "no redis-server is on PATH: what still waits is lost when the last command\non this data folder ends. --accept store keeps it in the bucket.")
	}
	if g.ctx.Err() != nil {
		broken = errors.New("interrupted; what was accepted stays accepted")
	}
	return tally.verdict(broken)
}

// volatile reports whether nothing keeps the accepted tasks: the queue is in memory, and
// they have no pending records.
func (c kindCmd[F, C]) volatile(stack *app.Stack) bool {
	return stack.Redis.InMemory && c.Options.Accept == string(tasks.InRedis)
}

// durability says what keeps the accepted tasks.
func (c kindCmd[F, C]) durability(stack *app.Stack) string {
	if c.volatile(stack) {
		return "in memory alone"
	}
	return "durable by " + c.Options.Accept
}

// idLine returns an id as enqueue prints it, with the key of its row.
func idLine(id, key string) string {
	if key == "" {
		return id
	}
	return id + "\t" + key
}

// counts counts the outcomes of a command's inputs.
type counts struct {
	done, failed int
	refused      int // not accepted
	open         int // still queued
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

// ended counts a result.
func (t *counts) ended(r *tasks.Result) {
	if r.Status == tasks.Completed {
		t.done++
	} else {
		t.failed++
	}
}

// verdict returns the exit code of a command, with a message.
func (t counts) verdict(why error) error {
	switch {
	case why != nil || t.failed > 0 || t.open > 0 || t.refused > 0 && t.done > 0:
		return &app.Exit{Code: app.ExitFailed, Err: why}
	case t.refused > 0:
		return &app.Exit{Code: app.ExitUsage}
	}
	return nil
}

// refusal reports whether an error is about an input rather than the connection to the
// queue.
func refusal(err error) bool {
	var problems tasks.ValidationError
	return errors.As(err, &problems) || errors.Is(err, tasks.ErrIdempotencyMismatch)
}

// at adds to an error which of several inputs it is about.
func (c kindCmd[F, C]) at(p parsed, err error) error {
	key := ""
	if p.key != "" {
		key = " (" + p.key + ")"
	}
	switch {
	case isStdin(c.Input):
		return fmt.Errorf("line %d%s: %w", p.n, key, err)
	case c.several():
		return fmt.Errorf("input %d: %w", p.n, err)
	}
	return err
}

// several reports whether there may be more than one input.
func (c kindCmd[F, C]) several() bool { return isStdin(c.Input) || len(c.Input) > 1 }

// total returns the number of inputs; 0 when unknown.
func (c kindCmd[F, C]) total(g *globals) int64 {
	if isStdin(c.Input) {
		return countLines(g.stdin)
	}
	return int64(max(len(c.Input), 1))
}

// parsed is an input with its payload.
type parsed struct {
	input
	key     string // key of the row; may be empty
	payload tasks.Payload
	err     error
}

// each yields the payloads of all inputs.
func (c kindCmd[F, C]) each(g *globals) func(func(parsed) bool) {
	return func(yield func(parsed) bool) {
		args := c.Input
		if len(args) == 0 {
			args = []string{""} // only --payload, without an input
		}
		for in := range inputs(g.ctx, args, g.stdin) {
			if !yield(c.parse(in)) {
				return
			}
		}
	}
}
