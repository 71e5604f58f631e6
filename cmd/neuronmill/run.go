package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
)

type runCmd struct {
	JSON bool `name:"json" help:"Print the result documents, one a line, in the order of the inputs."`
	kinds[runOne, runFile, runText]
}

// Help is shown by --help.
func (runCmd) Help() string {
	return examples(
		`neuronmill run text "Name three rivers"`,
		`neuronmill run translation "Good morning" "Good night" --target-lang de`,
		`neuronmill run image "a mill by a river" -o mill.jpg`,
		`neuronmill run embedding - < titles.txt > vectors.jsonl`,
		`neuronmill run text --payload - --json < rows.jsonl > results.jsonl`,
		`neuronmill run text --stream "Tell a long story"`,
	) + `
Results go to stdout in the order of the inputs, everything else to stderr. Without a Redis of your own it brings a worker with it.
It says what it waits for, and ends soon after the deadline of its tasks, unless a call is under way.

With - each line of stdin is an input. Without --json, a line that is blank, refused or failed gives an empty line, so that line 7 of the results belongs to line 7 of the
input wherever results are single lines. Rows with a key of their own can be joined whatever becomes of them: a payload has it as a member, {"key": "row-17", "prompt": "..."},
any other line with --keyed as row-17, a tab and the input. It is printed before the result, with a tab between (and \t, \n and \\ inside the result), and is metadata.key of the result
document.

A bad line is told with its number and the others go on. Exit code 0: all completed; 1: some did not; 2: all were refused.`
}

type runOne struct{}

func (runOne) verb() string  { return "run" }
func (runOne) file() string  { return "" }
func (runOne) follows() bool { return false }

// runText is the run command for text.
type runText struct {
	runOne
	Stream bool `help:"Print the text while the model writes it."`
}

func (r runText) follows() bool { return r.Stream }

// runFile is the run command for kinds whose results have files.
type runFile struct {
	Output string `short:"o" placeholder:"FILE" help:"Put the file of the result there; a folder takes the files of all results; - is stdout."`
}

var _, _, _ action = runOne{}, runFile{}, runText{}

func (runFile) verb() string   { return "run" }
func (r runFile) file() string { return r.Output }
func (runFile) follows() bool  { return false }

// Run executes "run KIND" or "enqueue KIND".
func (c *kindCmd[F, C]) Run(g *globals) error {
	if c.Command.verb() == "run" {
		return c.runAll(g)
	}
	return c.enqueue(g)
}

// window is the maximum number of unfinished tasks of one command.
const window = 1000

// waiting is a row, accepted or not, and its future result.
type waiting struct {
	parsed
	id     string
	end    time.Time // deadline of the task
	result chan outcome
}

type outcome struct {
	result *tasks.Result
	err    error
}

func (c kindCmd[F, C]) runAll(g *globals) error {
	if err := c.check(g); err != nil {
		return err
	}
	files, err := newSaver(c.Command.file(), c.several())
	if err != nil {
		return app.Usage(err)
	}
	stack, err := app.Open(g.ctx, g.settings, c.Options.AllowUnknownModel, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	ctx, fail := context.WithCancelCause(g.ctx)
	defer fail(nil)
	stopWorker, err := bringWorker(g, stack, fail)
	if err != nil {
		return err
	}
	defer stopWorker()
	outer, inner := g.ctx, *g
	inner.ctx, g = ctx, &inner

	bar := newProgress(g, "done", c.total(g))
	defer bar.stop()
	var (
		queue = make(chan waiting, window)
		wg    sync.WaitGroup
		out   = printer{g: g, stack: stack, bar: bar, files: files, rows: isStdin(c.Input) && !c.Keyed}
	)
	if c.Command.follows() {
		out.streamer = newStreamer(g, stack.Redis.UniversalClient, bar.stop)
		defer out.streamer.stop()
	}
	why := explain(g, stack, bar)
	defer why.stop()
	wg.Go(func() { c.print(queue, &out, why) })
	for p := range c.each(g) {
		w := waiting{parsed: p, result: make(chan outcome, 1)}
		if !p.blank {
			if w.id, err = c.enqueueOne(g, stack, p); err != nil {
				w.result <- outcome{err: err}
			} else {
				w.end = c.Options.end(c.kind(), time.Now())
				wg.Go(func() { w.result <- await(g, stack, w.id, w.end) })
			}
		}
		queue <- w
		if err != nil && !refusal(err) {
			break
		}
	}
	close(queue)
	wg.Wait()
	why.stop()
	bar.stop()
	if t := out.tally; c.several() {
		fmt.Fprintf(g.stderr, "%d completed, %d failed, %d refused, %d unfinished\n", t.done, t.failed, t.refused, t.open)
	}
	if outer.Err() != nil {
		return out.tally.verdict(errors.New("interrupted: unfinished tasks stay in the queue; neuronmill task wait ID waits for one"))
	}
	if why := context.Cause(ctx); why != nil {
		return out.tally.verdict(why)
	}
	return out.tally.verdict(nil)
}

// bringWorker starts a worker if the stack runs on this machine alone.
func bringWorker(g *globals, stack *app.Stack, fail func(error)) (stop func(), err error) {
	if !strings.HasPrefix(g.settings.RedisURL, "embedded:") {
		return func() {}, nil
	}
	quiet := *g
	if g.settings.LogLevel == "info" {
		quiet.log = app.Logger(g.logs, "error") // the results show the rest
	}
	return startWorker(&quiet, stack, fail)
}

// startWorker runs a worker of all kinds beside a command; stop waits for its end. If the
// worker ends before that, it calls fail: nothing would run the tasks.
func startWorker(g *globals, stack *app.Stack, fail func(error)) (stop func(), err error) {
	ai, note := app.OpenAI(g.settings)
	if note != "" {
		fmt.Fprintln(g.stderr, fitted(g.stderr, note))
	}
	w, err := stack.Worker(g.settings, ai, worker.Config{}, g.log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.ctx))
	done := make(chan error, 1)
	go func() {
		err := w.Run(ctx)
		if err != nil && ctx.Err() == nil {
			fail(err)
			err = nil // fail has reported it
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
	// Ctrl-C does not interrupt the call, so that its outcome is known.
	accepted, err := stack.Client.Enqueue(context.WithoutCancel(g.ctx), p, c.Options.of(in, c.several())...)
	return accepted.ID, err
}

// mostUnfinished is how many unfinished tasks a command lists when it stops.
const mostUnfinished = 10

// printer prints results in the order of the inputs.
type printer struct {
	g     *globals
	stack *app.Stack
	bar   *progress
	files saver
	rows  bool // one line of stdout per line of stdin, since rows have no keys

	streamer *streamer // prints texts while they are written; nil for none
	written  string    // the part of the present text that streamer has printed

	tally counts
}

func (c kindCmd[F, C]) print(queue <-chan waiting, out *printer, why *explainer) {
	for w := range queue {
		if w.blank {
			out.empty(w.parsed)
			continue
		}
		why.of(w.id)
		o := out.await(w)
		why.of("")
		if o.err != nil {
			out.without(c.at(w.parsed, o.err), w)
			continue
		}
		out.result(w.parsed, o.result)
		out.bar.add(1)
	}
}

// await waits for a result and prints the text of its task meanwhile.
func (p *printer) await(w waiting) outcome {
	if p.streamer == nil || w.id == "" {
		return <-w.result
	}
	finish := p.streamer.follow(w.id, events.SnapshotOf(p.stack.Client, objects.DefaultTenant, w.id))
	o := <-w.result
	p.written = finish()
	if p.written != "" && (o.err != nil || o.result.Status != tasks.Completed) {
		fmt.Fprintln(p.g.stdout)
	}
	return o
}

// without reports why an input has no result.
func (p *printer) without(err error, w waiting) {
	late, overdue := errors.AsType[*overdueError](err)
	switch {
	case w.id == "":
		p.tally.add(err)
		p.bar.say("neuronmill: %s", err)
		p.empty(w.parsed)
		return
	case overdue:
		p.bar.say("unfinished: %s: %s", w.id, late)
		p.empty(w.parsed)
	case p.g.ctx.Err() == nil:
		p.bar.say("unfinished: %s: %v", w.id, err)
		p.empty(w.parsed)
	case p.tally.open < mostUnfinished:
		p.bar.say("unfinished: %s", w.id)
	}
	p.tally.open++
}

// result prints a result.
func (p *printer) result(row parsed, r *tasks.Result) {
	p.tally.ended(r)
	if r.Status != tasks.Completed {
		p.bar.say("%s failed: %v", idLine(r.ID, row.key), r.Error)
	}
	files, note, err := p.files.save(p.g.ctx, p.stack.Store, r, row.key, p.g.stdout)
	if note != "" {
		p.bar.say("%s", note)
	}
	if err != nil {
		p.tally.failed++
		p.bar.say("neuronmill: %s: %v", r.ID, err)
	}
	switch {
	case p.g.asJSON:
		if document, err := json.Marshal(r); err == nil {
			p.bar.print(p.g.stdout, string(document))
		}
	case r.Status != tasks.Completed:
		p.empty(row)
	case p.files.stdout():
	case p.streamer != nil:
		fmt.Fprintln(p.g.stdout, unwritten(mainResult(p.g.settings, r), p.written))
	case len(files) > 0:
		p.line(row, strings.Join(files, "\n"))
	default:
		p.line(row, mainResult(p.g.settings, r))
	}
}

// line prints the main result of a task.
func (p *printer) line(row parsed, text string) {
	if row.key != "" {
		p.rows = false
		text = row.key + "\t" + lineBreaks.Replace(text)
	}
	p.bar.print(p.g.stdout, text)
}

// lineBreaks escapes a text to fit on one line.
var lineBreaks = strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`)

// empty prints a blank line for a row without a result.
func (p *printer) empty(row parsed) {
	if p.rows && row.key == "" && !p.g.asJSON && p.g.ctx.Err() == nil {
		p.bar.print(p.g.stdout, "")
	}
}

// mainResult returns the main content of a result.
func mainResult(settings app.Settings, r *tasks.Result) string {
	switch r.Kind {
	case tasks.KindTranscription:
		out, _ := tasks.OutputOf[tasks.TranscriptionOutput](r)
		return out.Text
	case tasks.KindImage:
		out, _ := tasks.OutputOf[tasks.ImageOutput](r)
		return located(settings, out.Image)
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
