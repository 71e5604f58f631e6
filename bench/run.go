package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/bench/report"
)

// figures are the outcome of a measurement. They are kept as JSON and can be shown
// again at any time.
type figures interface {
	Section() report.Section
}

// measurement is one part of the page.
type measurement struct {
	name    string
	measure func(*lab) (figures, error)
	empty   func() figures // to read kept figures into
}

// measurements are in the order of the page.
var measurements = []measurement{
	{"limit", measureLimit, func() figures { return &limitFigures{} }},
	{"gate", measureGate, func() figures { return &gateFigures{} }},
	{"riding", measureRiding, func() figures { return &ridingFigures{} }},
	{"latency", measureLatency, func() figures { return &latencyFigures{} }},
	{"overhead", measureOverhead, func() figures { return &overheadFigures{} }},
	{"closure", measureClosure, func() figures { return &closureFigures{} }},
	{"batch", measureBatch, func() figures { return &batchFigures{} }},
	{"http", measureHTTP, func() figures { return &httpFigures{} }},
}

// flags are the same for all measurements.
type flags struct {
	Quick bool   `help:"Shorter runs. Only figures that do not depend on the machine's load are held against their targets, and the page is not written unless --docs is given."`
	Check bool   `help:"Exit with 1 when a target is missed."`
	Docs  string `help:"Folder of the page and its plots; ../docs by default." type:"path"`
}

type (
	allCmd      struct{ flags }
	limitCmd    struct{ flags }
	gateCmd     struct{ flags }
	ridingCmd   struct{ flags }
	latencyCmd  struct{ flags }
	overheadCmd struct{ flags }
	closureCmd  struct{ flags }
	batchCmd    struct{ flags }
	httpCmd     struct{ flags }
	renderCmd   struct{ flags }
)

func (c *allCmd) Run(ctx context.Context) error {
	return c.run(ctx, "all", "limit", "gate", "riding", "latency", "overhead", "closure", "batch", "http")
}
func (c *limitCmd) Run(ctx context.Context) error    { return c.run(ctx, "limit", "limit") }
func (c *gateCmd) Run(ctx context.Context) error     { return c.run(ctx, "gate", "gate") }
func (c *ridingCmd) Run(ctx context.Context) error   { return c.run(ctx, "riding", "riding") }
func (c *latencyCmd) Run(ctx context.Context) error  { return c.run(ctx, "latency", "latency") }
func (c *overheadCmd) Run(ctx context.Context) error { return c.run(ctx, "overhead", "overhead") }
func (c *closureCmd) Run(ctx context.Context) error  { return c.run(ctx, "closure", "closure") }
func (c *batchCmd) Run(ctx context.Context) error    { return c.run(ctx, "batch", "batch") }
func (c *httpCmd) Run(ctx context.Context) error     { return c.run(ctx, "http", "http") }
func (c *renderCmd) Run(context.Context) error       { return c.write(report.Kept{}) }

// errMissed: a target was missed, which is not the program's failure.
var errMissed = errors.New("a target was missed")

// run measures, prints and keeps the figures.
func (f *flags) run(ctx context.Context, command string, names ...string) error {
	l, err := newLab(ctx, f.Quick)
	if err != nil {
		return err
	}
	defer l.close()
	missed := 0
	for _, m := range measurements {
		if !slices.Contains(names, m.name) {
			continue
		}
		start := time.Now()
		got, err := m.measure(l)
		if err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
		section := got.Section()
		fmt.Println(section.Markdown(f.Quick))
		l.say("%s took %s", m.name, time.Since(start).Round(time.Second))
		missed += section.Missed(f.Quick)
		if f.Quick && f.Docs == "" {
			continue
		}
		raw, err := json.Marshal(got)
		if err == nil {
			err = f.write(report.Kept{m.name: {
				Command: "go run -C bench . " + command, Quick: f.Quick, Machine: l.machine(),
				On: time.Now().UTC().Format(time.DateOnly), Figures: raw,
			}})
		}
		if err != nil {
			return err
		}
	}
	if missed > 0 {
		fmt.Fprintf(os.Stderr, "targets missed: %d\n", missed)
		if f.Check {
			return errMissed
		}
	}
	return nil
}

// write adds new figures to those kept, and makes page and plots from all of them.
func (f *flags) write(news report.Kept) error {
	docs := f.Docs
	if docs == "" {
		docs = filepath.Join("..", "docs")
	}
	kept, err := report.Load(docs)
	if err != nil {
		return err
	}
	maps.Copy(kept, news)
	var sections []report.Shown
	for _, m := range measurements {
		run, ok := kept[m.name]
		if !ok {
			continue
		}
		got := m.empty()
		if err := json.Unmarshal(run.Figures, got); err != nil {
			return fmt.Errorf("read the figures of %s: %w", m.name, err)
		}
		sections = append(sections, report.Shown{Name: m.name, Run: run, Section: got.Section()})
	}
	return report.Write(docs, kept, sections)
}

// machine describes the machine of the measurement.
func (l *lab) machine() string {
	return fmt.Sprintf("%d cores shared by workers, Redis, emulator and rivals; %s %s/%s; %s", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, l.redisVersion)
}
