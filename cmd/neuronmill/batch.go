package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/openaibatch"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

type batchCmd struct {
	Run     batchRunCmd     `cmd:"" help:"Run a file here and wait for its output; again after an interruption, it continues."`
	Plan    batchPlanCmd    `cmd:"" help:"Check every line of a file and say what it would cost and take. Spends nothing, unless --sample runs some lines."`
	Submit  batchSubmitCmd  `cmd:"" help:"Hand a file to the workers, print the id of the batch."`
	Status  batchStatusCmd  `cmd:"" help:"Say how far a batch is, and what it waits for."`
	Wait    batchWaitCmd    `cmd:"" help:"Wait for the end of a batch."`
	Tail    batchTailCmd    `cmd:"" help:"Print the output of a batch as it comes."`
	Results batchResultsCmd `cmd:"" help:"Print the output of a batch, or as much as there is."`
	Cancel  batchCancelCmd  `cmd:"" help:"End a batch early. Completed lines stay."`
	Retry   batchRetryCmd   `cmd:"" help:"Run the failed lines of a batch again."`
	List    batchListCmd    `cmd:"" help:"List the batches, latest first."`
}

// Help is shown by --help.
func (batchCmd) Help() string {
	return examples(
		"neuronmill batch plan rows.jsonl",
		"neuronmill batch run rows.jsonl.gz -o results.jsonl",
		"neuronmill batch run a.csv --kind embedding --column title --id-column sku",
		"neuronmill batch submit rows.jsonl",
	) + `
A line of a file is {"id": "row-17", "kind": "embedding", "input": {"texts": ["..."]}}, with "model" if it is not the default; kinds and models may be mixed. With --kind a line is
plain text, or a row of CSV with --column. The output has a line for each line, in the order of the input:

  {"id": "row-17", "status": "completed", "output": {...}, "usage": {...}}
  {"id": "row-18", "status": "failed", "error": {"code": "...", "message": "..."}}

Lines with equal kind, model and input are called once, unless --call-each is given. The others have the same output and "usage": {"neurons": 0, "calls": 0, "cached": true}.`
}

// batchFile is the file of a batch and the form of its lines.
type batchFile struct {
	File              string            `arg:"" help:"Lines of JSON, plain text or CSV; may end in .gz or .zst; - is stdin."`
	Kind              tasks.Kind        `placeholder:"KIND" help:"The lines are plain text, the input of this kind; or CSV, see --column."`
	Model             string            `placeholder:"ID" help:"The model of such lines."`
	Column            string            `placeholder:"NAME" help:"The file is CSV with a header; this column is the input."`
	IDColumn          string            `name:"id-column" placeholder:"NAME" help:"The column with the ids; the numbers of the lines when left out."`
	With              map[string]string `placeholder:"FIELD=VALUE" mapsep:"," help:"Other payload fields of such lines: --with target_lang=es. A value that is JSON is taken as it is."`
	SkipInvalid       bool              `help:"Run the valid lines of a file that has others; those fail in the output."`
	CallEach          bool              `help:"Call every line, for pictures or texts that are to differ. Without it, lines with equal kind, model and input are called once."`
	AllowUnknownModel bool              `help:"Accept a model that neuronmill does not know, or that is withdrawn."`
}

// source opens the file. The caller calls done at the end.
func (f batchFile) source(g *globals) (src batch.Source, done func(), err error) {
	done = func() {}
	format, err := f.format()
	if err != nil {
		return src, done, app.Usage(err)
	}
	path := f.File
	if path == "-" {
		if path, err = spool(g); err != nil {
			return src, done, err
		}
		done = func() { _ = os.Remove(path) } // a leftover is in the folder for temporary files
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return src, done, app.Usage(err)
	case info.IsDir():
		return src, done, app.Usage(fmt.Errorf("%s is a folder", path))
	}
	open := func() (io.ReadCloser, error) {
		now, err := os.Stat(path)
		if err == nil && (now.Size() != info.Size() || !now.ModTime().Equal(info.ModTime())) {
			err = fmt.Errorf("%s has changed meanwhile", path)
		}
		if err != nil {
			return nil, err
		}
		return os.Open(path)
	}
	name := filepath.Base(f.File)
	if f.File == "-" {
		name = "stdin"
	}
	return batch.Source{Name: name, Open: open, Format: format, CallEach: f.CallEach}, done, nil
}

// spool copies stdin to a temporary file, because a batch reads its input twice.
func spool(g *globals) (path string, err error) {
	file, err := os.CreateTemp("", "neuronmill-batch-")
	if err != nil {
		return "", fmt.Errorf("make a temporary file: %w", err)
	}
	_, err = io.Copy(file, &interruptible{g.ctx, g.stdin})
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(file.Name())
		return "", fmt.Errorf("read stdin: %w", err)
	}
	return file.Name(), nil
}

// interruptible is a reader that ends with a context, between two reads.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, errors.New("interrupted")
	}
	return i.r.Read(p)
}

// format returns the format of the lines.
func (f batchFile) format() (batch.Format, error) {
	form := batch.Form{Template: batch.Template{Kind: f.Kind, Model: wholeModel(f.Model)}, Column: f.Column, IDColumn: f.IDColumn}
	for name, value := range f.With {
		if form.Fields == nil {
			form.Fields = map[string]batch.RawJSON{}
		}
		raw := batch.RawJSON(value)
		if !raw.IsValid() {
			encoded, err := json.Marshal(value)
			if err != nil {
				return nil, fmt.Errorf("--with %s: %w", name, err)
			}
			raw = encoded
		}
		form.Fields[name] = raw
	}
	format, err := form.Format(f.File)
	if invalid, ok := errors.AsType[tasks.ValidationError](err); ok {
		return nil, fmt.Errorf("--%s %s", strings.ReplaceAll(invalid[0].Field, "_", "-"), invalid[0].Message)
	}
	return format, err
}

// settings returns the flags that change the lines.
func (f batchFile) settings() []string {
	with, _ := json.Marshal(f.With) // in the order of the names
	settings := []string{string(f.Kind), f.Model, f.Column, f.IDColumn, string(with), fmt.Sprint(f.SkipInvalid)}
	if f.CallEach {
		settings = append(settings, "call each")
	}
	return settings
}

// batchLimits end a batch early.
type batchLimits struct {
	AutoStop batch.AutoStop `name:"auto-stop" placeholder:"LIMIT" help:"End the batch once too many of its lines have failed: \"failed>5%%\". Retry runs the rest."`
}

// batchCap bounds the cost of a batch.
type batchCap struct {
	MaxNeurons float64 `placeholder:"N" help:"Most that the batch may cost over all retries. It reserves the highest price of each call before it is sent, and stops before a call that might cost more. Retry with a higher N runs the rest."`
}

// batchSpend is the flag that bounds the cost of a batch.
type batchSpend struct {
	Spend tasks.Spend `placeholder:"free" enum:",free" default:"" help:"free: use what all others leave of the free 10,000 neurons of a day, wait for 00:00 UTC when they are spent, and cost nothing."`
}

// batchKeep bounds how long the bucket has a batch.
type batchKeep struct {
	Keep batch.MaxAge `placeholder:"30d" help:"Delete the batch with its output so long after its end; workers do. Without it the bucket keeps it."`
}

// batchReuse takes stored results instead of calls.
type batchReuse struct {
	Reuse batch.MaxAge `placeholder:"90d" help:"Take results that are no older from earlier batches, at no cost, where model and input are equal. Without it all lines are called."`
}

// batchOutput says where and in which form the output goes.
type batchOutput struct {
	Output   string             `short:"o" placeholder:"FILE" help:"Put the output there; stdout when left out. A name that ends in .gz is compressed."`
	Format   batch.OutputFormat `enum:"jsonl,vectorize" default:"jsonl" help:"jsonl, or vectorize: lines that Cloudflare Vectorize loads."`
	Compress string             `enum:",gzip" default:"" placeholder:"gzip" help:"gzip compresses the output, whatever its name."`
}

// check refuses an output that is the input.
func (o batchOutput) check(input string) error {
	if o.Output == "" || input == "-" {
		return nil
	}
	in, err := os.Stat(input)
	if err != nil {
		return nil // the input is opened later
	}
	if out, err := os.Stat(o.Output); err == nil && os.SameFile(in, out) {
		return app.Usage(fmt.Errorf("%s is the input: the output would replace it", o.Output))
	}
	return nil
}

// batches returns the batches of the stack.
func batches(stack *app.Stack, g *globals) *batch.Batches {
	return batch.New(batch.Config{Client: stack.Client, Store: stack.Store, Redis: stack.Redis.UniversalClient, Log: g.log})
}

// accept stores a file as a batch and prints its invalid lines.
func (f batchFile) accept(g *globals, b *batch.Batches, id string, src batch.Source, o batch.AcceptOptions) (*batch.Batch, error) {
	o.SkipInvalid = f.SkipInvalid
	d, err := b.Accept(g.ctx, id, src, o)
	if invalid, ok := errors.AsType[*batch.InvalidError](err); ok {
		printProblems(g, invalid.Report)
		return nil, app.Usage(fmt.Errorf("%w, and nothing was run; --skip-invalid runs the others", err))
	}
	if errors.Is(err, batch.ErrReuseEach) {
		return nil, app.Usage(err)
	}
	if errors.Is(err, batch.ErrEmpty) {
		return nil, app.Usage(fmt.Errorf("%s: %w", src.Name, err))
	}
	return d, err
}

// problemsShown is the most invalid lines that a command prints.
const problemsShown = 20

func printProblems(g *globals, r *batch.Report) {
	shown := r.Problems[:min(len(r.Problems), problemsShown)]
	for i := range shown {
		fmt.Fprintf(g.stderr, "neuronmill: %v\n", &shown[i])
	}
	if more := r.Invalid - len(shown); more > 0 {
		fmt.Fprintf(g.stderr, "neuronmill: and %d more\n", more)
	}
}

type batchPlanCmd struct {
	batchFile
	batchReuse
	batchSpend
	Sample int  `placeholder:"20" help:"Run so many lines, spread over the file, for real: shows their outputs, and the cost and failures of the file by them. Runs of the file within a week do not pay for them again."`
	JSON   bool `name:"json" help:"Print the plan as JSON."`
}

// Help is shown by --help.
func (batchPlanCmd) Help() string {
	return examples("neuronmill batch plan rows.jsonl", "neuronmill batch plan titles.csv --kind embedding --column title", "neuronmill batch plan rows.jsonl --sample 20", "neuronmill batch plan rows.jsonl --spend free") + `
Tokens are estimated by characters, so the cost may be 40 % off; recordings have no estimate. The time is that of the calls at the pace of their models, with nothing else running.
Exit code 0: all lines are valid; 2: some are not.`
}

// Run checks a file.
func (c *batchPlanCmd) Run(g *globals) error {
	src, done, err := c.source(g)
	defer done()
	if err != nil {
		return err
	}
	if c.Sample != 0 {
		return c.sample(g, src)
	}
	report, err := c.scan(g, src)
	if err != nil {
		return app.Usage(fmt.Errorf("%s: %w", src.Name, err))
	}
	return c.show(g, report, nil)
}

// show prints a plan and the lines that are not valid. stack is nil if it is not open.
func (c *batchPlanCmd) show(g *globals, report *batch.Report, stack *app.Stack) error {
	if c.JSON {
		if err := json.NewEncoder(g.stdout).Encode(report); err != nil {
			return err
		}
	} else if err := c.print(g, report, stack); err != nil {
		return err
	}
	return refused(g, report)
}

// refused prints the lines that are not valid, if any, and returns the error.
func refused(g *globals, report *batch.Report) error {
	if report.Invalid == 0 {
		return nil
	}
	printProblems(g, report)
	return app.Usage(fmt.Errorf("%d of %d lines are not valid", report.Invalid, report.Lines))
}

// scan checks the lines. Only stored results need the bucket.
func (c *batchPlanCmd) scan(g *globals, src batch.Source) (*batch.Report, error) {
	if c.Reuse > 0 {
		stack, err := app.Open(g.ctx, g.settings, c.AllowUnknownModel, g.log)
		if err != nil {
			return nil, err
		}
		defer stack.Close()
		return batches(stack, g).Plan(g.ctx, src, c.Reuse)
	}
	unused := redis.NewClient(&redis.Options{}) // checks need no Redis, and the client dials on demand
	defer unused.Close()
	client := tasks.NewClient(tasks.Config{Redis: unused, AllowUnknownModel: c.AllowUnknownModel})
	return batch.Scan(g.ctx, client, src)
}

func (c *batchPlanCmd) print(g *globals, r *batch.Report, stack *app.Stack) error {
	t := newTable(column{name: "KIND"}, column{name: "MODEL", shorten: shortModels}, column{name: "LINES"}, column{name: "CALLS"}, column{name: "NEURONS"}, column{name: "TIME"})
	for _, d := range r.Demands {
		neurons := fmt.Sprintf("%.0f", d.Neurons)
		if d.Unpriced > 0 {
			neurons = "unknown"
		}
		t.add(d.Kind, d.Model, d.Lines, d.Calls, neurons, callTime(g, d).Round(time.Second))
	}
	if err := t.print(g.stdout); err != nil {
		return err
	}
	neurons, unpriced := r.Neurons()
	took := longest(g, r.Demands)
	text := fmt.Sprintf("%d lines, %d calls, about %.0f neurons ($%.2f beyond the free 10,000 a day, ±40 %%), at least %s", r.Lines-r.Invalid, r.Calls(), neurons, neurons*batch.DollarsPerNeuron, took.Round(time.Second))
	if r.Reused > 0 {
		text += fmt.Sprintf("; %d lines have a stored result and cost nothing", r.Reused)
	}
	if r.Repeated > 0 {
		text += fmt.Sprintf("; %d lines equal an earlier one and cost nothing", r.Repeated)
	}
	if unpriced > 0 {
		text += fmt.Sprintf("; %d lines have no estimate", unpriced)
	}
	if _, err := fmt.Fprintln(g.stdout, text); err != nil || c.Spend == "" {
		return err
	}
	left, err := freeLeft(g, stack)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.stdout, outlookText(time.Now(), neurons, took, left))
	return err
}

// callTime returns how long the calls of a demand take at the pace of its model.
func callTime(g *globals, d *batch.Demand) time.Duration {
	pace := g.settings.Limits.Pace(d.Model, string(d.Kind)).PerMinute
	return time.Duration(float64(d.Calls) / float64(max(pace, 1)) * float64(time.Minute))
}

// longest returns how long the calls of a batch take with nothing else running.
func longest(g *globals, demands []*batch.Demand) (most time.Duration) {
	for _, d := range demands {
		most = max(most, callTime(g, d))
	}
	return most
}

// freeLeft returns the rest of the free allocation today.
func freeLeft(g *globals, stack *app.Stack) (float64, error) {
	if stack == nil {
		opened, err := app.Open(g.ctx, g.settings, false, g.log)
		if err != nil {
			return 0, app.Usage(err)
		}
		defer opened.Close()
		stack = opened
	}
	return stack.Usage().FreeLeft(g.ctx, stack.Caps(), time.Now())
}

// outlookText says when a batch is done at no cost, and when at its price.
func outlookText(now time.Time, neurons float64, took time.Duration, left float64) string {
	paid, free := batch.OutlookOf(now, neurons, took, left)
	dollars := fmt.Sprintf("$%.2f", paid.Dollars)
	if paid.Dollars > 0 && paid.Dollars < 0.1 {
		dollars = fmt.Sprintf("$%.4f", paid.Dollars)
	}
	begin := fmt.Sprintf("%.0f free neurons are left today: done ", left)
	switch {
	case free.At.IsZero():
		return begin + "in more than ten years for $0.00, or " + dayText(paid.At, now) + " UTC for " + dollars
	case paid.Dollars == 0:
		return begin + dayText(paid.At, now) + " UTC for $0.00"
	}
	return begin + dayText(free.At, now) + " UTC for $0.00, or " + dayText(paid.At, now) + " for " + dollars
}

// dayText names a time in UTC by its day: "today 07:40", "on Sunday 03:10".
func dayText(at, now time.Time) string {
	at = at.UTC().Add(59 * time.Second).Truncate(time.Minute)
	midnight := now.UTC().Truncate(24 * time.Hour)
	switch days := int(at.Sub(midnight) / (24 * time.Hour)); {
	case days == 0:
		return at.Format("today 15:04")
	case days < 7:
		return at.Format("on Monday 15:04")
	}
	return at.Format("on 2 January 2006 15:04")
}

type batchSubmitCmd struct {
	batchFile
	batchLimits
	batchCap
	batchSpend
	batchReuse
	batchKeep
	IdempotencyKey string            `placeholder:"KEY" help:"The same key gives the same batch."`
	Metadata       map[string]string `placeholder:"K=V" mapsep:"," help:"Words of yours that status and list show."`
}

// Help is shown by --help.
func (batchSubmitCmd) Help() string {
	return examples("neuronmill batch submit rows.jsonl", "neuronmill batch submit rows.jsonl --reuse 90d", "neuronmill batch wait $(neuronmill batch submit rows.jsonl) -o results.jsonl") + `
Workers run the batch, so this command may end at once: start them with neuronmill worker.`
}

// Run hands a file to the workers.
func (c *batchSubmitCmd) Run(g *globals) error {
	src, done, err := c.source(g)
	defer done()
	if err != nil {
		return err
	}
	stack, err := app.Open(g.ctx, g.settings, c.AllowUnknownModel, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	b := batches(stack, g)
	id := batch.NewID()
	if c.IdempotencyKey != "" {
		id = b.KeyedID(c.IdempotencyKey)
	}
	d, err := c.accept(g, b, id, src, batch.AcceptOptions{ByWorkers: true, AutoStop: c.AutoStop, MaxNeurons: c.MaxNeurons, Spend: c.Spend, Keep: c.Keep, Reuse: c.Reuse})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(g.stdout, d.ID)
	return err
}

// batchService drives submitted batches, those of OpenAI's API too, and deletes files that
// have expired.
func batchService(g *globals, stack *app.Stack) service {
	openAI := &openaibatch.Runner{Webhooks: stack.Webhooks(), Log: g.log}
	batches := openAI.Service(&batch.Service{Redis: stack.Redis.UniversalClient, Store: stack.Store, Log: g.log})
	sweeper := &files.Sweeper{Redis: stack.Redis.UniversalClient, Store: stack.Store, Log: g.log}
	return func(ctx context.Context) error { return together(ctx, batches.Run, sweeper.Run) }
}
