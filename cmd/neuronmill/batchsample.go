package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/tasks"
)

// sample runs some lines of a file and prints an estimate for all of it.
func (c *batchPlanCmd) sample(g *globals, src batch.Source) error {
	if c.Sample < 1 || c.Sample > batch.MostSample {
		return app.Usage(fmt.Errorf("--sample %d is out of range, 1 to %d", c.Sample, batch.MostSample))
	}
	stack, err := app.Open(g.ctx, g.settings, c.AllowUnknownModel, g.log)
	if err != nil {
		return app.Usage(err)
	}
	defer stack.Close()
	b := batches(stack, g)
	s, err := b.Sample(g.ctx, src, c.Reuse, c.Sample)
	if err != nil {
		return app.Usage(fmt.Errorf("%s: %w", src.Name, err))
	}
	if s.Report.Invalid > 0 && !c.SkipInvalid || s.Lines() == 0 {
		return c.show(g, s.Report, stack) // nothing is run
	}
	p, err := runSample(g, stack, b, s, c.Spend)
	if err != nil {
		return err
	}
	if c.JSON {
		err = json.NewEncoder(g.stdout).Encode(struct {
			*batch.Report
			Sample *batch.Projection `json:"sample"`
		}{s.Report, p})
	} else {
		err = c.printSample(g, s.Report, p, stack)
	}
	if err != nil {
		return err
	}
	return refused(g, s.Report)
}

// runSample runs the lines of a sample here, unless that was done.
func runSample(g *globals, stack *app.Stack, b *batch.Batches, s *batch.Sample, spend tasks.Spend) (p *batch.Projection, err error) {
	_, err = b.Get(g.ctx, s.ID)
	fresh := errors.Is(err, batch.ErrNotFound)
	d, err := b.Accept(g.ctx, s.ID, s.Source, batch.AcceptOptions{Sample: true, Spend: spend})
	if err != nil {
		return nil, err
	}
	if _, err = driveHere(g, stack, b, d, fresh, func() (err error) {
		p, err = b.Project(g.ctx, s)
		return err
	}); err != nil {
		return nil, err
	}
	return p, nil
}

// errorText formats an error of estimate with two digits, or whole neurons.
func errorText(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2g", x)
}

// outputShown is how much of an output a sample shows.
const outputShown = 100

func (c *batchPlanCmd) printSample(g *globals, r *batch.Report, p *batch.Projection, stack *app.Stack) error {
	t := newTable(column{name: "LINE"}, column{name: "NEURONS"}, column{name: "OUTPUT", least: 20})
	for _, o := range p.Outputs {
		text := string(o.Output)
		if o.Error != nil {
			text = o.Error.Error()
		}
		if runes := []rune(text); len(runes) > outputShown {
			text = string(runes[:outputShown]) + "…"
		}
		t.add(o.ID, fmt.Sprintf("%.4g", o.Neurons), text)
	}
	if err := t.print(g.stdout); err != nil {
		return err
	}
	if err := c.print(g, r, stack); err != nil {
		return err
	}
	_, err := fmt.Fprintf(g.stdout, "by a sample of %d lines: about %.4g ±%s neurons ($%.4f beyond the free 10,000 a day); %d failed, so %.0f to %.0f %% of all may fail\n%.4g neurons are paid; a run of the file within a week does not pay for them again\n",
		p.Lines, p.Neurons, errorText(p.NeuronsError), p.Neurons*batch.DollarsPerNeuron, p.Failed, 100*p.FailedFrom, 100*p.FailedTo, p.Paid)
	return err
}
