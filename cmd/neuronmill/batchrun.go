package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/batch"
)

type batchRunCmd struct {
	batchFile
	batchLimits
	batchCap
	batchSpend
	batchReuse
	batchKeep
	batchOutput
	Again bool `help:"Run all lines, although an earlier run of this file may have their results."`
}

// Help is shown by --help.
func (batchRunCmd) Help() string {
	return examples(
		"neuronmill batch run rows.jsonl -o results.jsonl",
		"neuronmill batch run a.txt --kind translation --with target_lang=es",
		"zcat rows.jsonl.gz | neuronmill batch run - > results.jsonl",
	) + `
Without a Redis of your own it brings a worker with it. Interrupt it whenever you like: the same command continues where it stopped and pays nothing twice, since the file and the
flags name the batch. For the same reason a second run of a finished file prints its output at no cost.
Exit code 0: all lines completed; 1: some failed, or it was interrupted; 2: wrong usage, or lines that are not valid.`
}

// Run runs a file.
func (c *batchRunCmd) Run(g *globals) error {
	if err := c.check(c.File); err != nil {
		return err
	}
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
	if !c.Again {
		if id, err = b.DerivedID(src, c.settings()...); err != nil {
			return err
		}
	}
	_, err = b.Get(g.ctx, id)
	fresh := errors.Is(err, batch.ErrNotFound)
	d, err := c.accept(g, b, id, src, batch.AcceptOptions{AutoStop: c.AutoStop, MaxNeurons: c.MaxNeurons, Spend: c.Spend, Keep: c.Keep, Reuse: c.Reuse})
	if err != nil {
		return err
	}
	if err := c.begunAlike(g, b, d); err != nil {
		return err
	}
	return c.drive(g, stack, b, d, fresh)
}

// begunAlike refuses bounds on the cost that a batch does not have which an earlier run began.
func (c *batchRunCmd) begunAlike(g *globals, b *batch.Batches, d *batch.Batch) error {
	has := ""
	switch {
	case c.Spend != "" && c.Spend != d.Spend:
		has = "without --spend " + string(c.Spend)
	case c.MaxNeurons > 0 && d.MaxNeurons == 0:
		has = "without --max-neurons"
	case c.MaxNeurons > 0 && c.MaxNeurons != d.MaxNeurons:
		has = fmt.Sprintf("with --max-neurons %g", d.MaxNeurons)
	default:
		return nil
	}
	s, err := b.State(g.ctx, d.ID)
	if err != nil || !s.EndedAt.IsZero() {
		return err
	}
	return app.Usage(fmt.Errorf("a run of this file was begun %s: continue it so; or end it with neuronmill batch cancel %s and begin a new one with --again", has, d.ID))
}

// drive drives a batch in this process and writes its output.
func (o batchOutput) drive(g *globals, stack *app.Stack, b *batch.Batches, d *batch.Batch, fresh bool) error {
	end, err := driveHere(g, stack, b, d, fresh, func() error { return o.write(g.ctx, g, b, d.ID) })
	if err != nil {
		return err
	}
	return reportEnd(g, d.ID, end)
}

// driveHere drives a batch in this process, with a worker if there is none. It calls ended
// once the output is complete.
func driveHere(g *globals, stack *app.Stack, b *batch.Batches, d *batch.Batch, fresh bool, ended func() error) (*batch.End, error) {
	ctx, fail := context.WithCancelCause(g.ctx)
	defer fail(nil)
	inner := *g
	inner.ctx = ctx
	stopWorker, err := bringWorker(&inner, stack, fail)
	if err != nil {
		return nil, err
	}
	defer stopWorker()
	bar := newProgress(&inner, "lines", int64(d.Lines))
	defer bar.stop()
	shown := &batchProgress{bar: bar, why: explain(&inner, stack, bar)}
	defer shown.why.stop()
	var end *batch.End
	options := batch.DriveOptions{New: fresh, Progress: shown.show, Ended: func(e *batch.End) error {
		end = e
		return ended()
	}}
	for {
		_, err = b.Drive(ctx, d.ID, options)
		if !errors.Is(err, batch.ErrDriven) {
			break
		}
		bar.waitsFor("another process drives the batch, or one that was killed did a moment ago")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	bar.stop()
	switch {
	case end != nil && (err == nil || ctx.Err() != nil): // only the tidying was interrupted
		return end, nil
	case g.ctx.Err() != nil:
		return nil, errors.New("interrupted: the same command continues where it stopped, and pays nothing twice")
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return end, err
}

// reportEnd prints the end of a batch.
func reportEnd(g *globals, id string, e *batch.End) error {
	fmt.Fprintf(g.stderr, "%s: %d completed, %d failed, %s\n", e.Status, e.Completed, e.Failed, costs(e.Counts))
	if e.Why != "" {
		fmt.Fprintln(g.stderr, "it stopped itself:", e.Why)
	}
	if e.Failed > 0 {
		fmt.Fprintf(g.stderr, "neuronmill batch status %s --failures groups the failed lines; neuronmill batch retry %s --failed runs them again\n", id, id)
		return &app.Exit{Code: app.ExitFailed}
	}
	return nil
}

func cost(neurons float64) string {
	return fmt.Sprintf("%.1f neurons ($%.4f)", neurons, neurons*batch.DollarsPerNeuron)
}

// costs names the cost of a batch, and the lines that cost nothing.
func costs(c batch.Counts) string {
	text := cost(c.Neurons)
	if c.Lost > 0 {
		text += fmt.Sprintf(", up to %.1f more for lost answers", c.Lost)
	}
	if c.Cached > 0 {
		text += fmt.Sprintf(", %d cached", c.Cached)
	}
	return text
}

// batchProgress shows the progress of a batch.
type batchProgress struct {
	bar     *progress
	why     *explainer
	started bool
	task    string
}

func (s *batchProgress) show(p batch.Progress) {
	done := int64(p.Completed + p.Failed)
	if !s.started {
		s.started = true
		s.bar.rateFrom(done)
	}
	s.bar.set(done)
	extra := ""
	if p.Failed > 0 {
		extra = fmt.Sprintf(", %d failed", p.Failed)
	}
	if p.Neurons > 0 || p.Cached > 0 {
		extra += ", " + costs(p.Counts)
	}
	s.bar.extra.Store(extra)
	if p.Why != "" {
		s.bar.waitsFor(p.Why)
	}
	if p.Waiting != s.task {
		s.task = p.Waiting
		s.why.of(p.Waiting)
	}
}

// write writes the output so far to its destination. A file appears whole or not at all.
func (o batchOutput) write(ctx context.Context, g *globals, b *batch.Batches, id string) (err error) {
	if o.Output == "" || o.Output == "-" {
		out := bufio.NewWriterSize(g.stdout, 256<<10)
		if err := o.fill(ctx, b, id, out); err != nil {
			return err
		}
		return out.Flush()
	}
	part := o.Output + ".part"
	file, err := os.Create(part)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part) // the next run writes it again
		}
	}()
	err = o.fill(ctx, b, id, file)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(part, o.Output)
}

func (o batchOutput) fill(ctx context.Context, b *batch.Batches, id string, file io.Writer) error {
	if !strings.HasSuffix(o.Output, ".gz") && o.Compress == "" {
		_, err := b.Export(ctx, id, o.Format, file)
		return err
	}
	z, err := gzip.NewWriterLevel(file, gzip.BestSpeed)
	if err != nil {
		return err
	}
	_, err = b.Export(ctx, id, o.Format, z)
	return errors.Join(err, z.Close())
}
