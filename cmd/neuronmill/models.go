package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

type modelsCmd struct {
	Kind      string `placeholder:"KIND" help:"Only this kind."`
	Withdrawn bool   `help:"Show withdrawn models too."`
	JSON      bool   `name:"json" help:"One JSON object a line."`
	Refresh   bool   `help:"Ask the account's own catalogue what is new, gone or planned to go."`
}

// Help is shown by --help.
func (modelsCmd) Help() string {
	return examples("neuronmill models --kind embedding", "neuronmill models --withdrawn --json", "neuronmill models --refresh") + `
A MINUTE are the requests that the API takes; NEURONS is the price: of text per million tokens, in/out. On a narrow terminal the ids are short; --model takes these too.

The table is part of the program. --refresh asks the account's own catalogue, which is free, and says where the table is behind: new models, models that are gone or announced to
leave, contexts that changed. A new model can be used at once with --allow-unknown-model and a pace of its own in NEURONMILL_LIMITS; its row goes into internal/catalogue.`
}

// Run lists the models.
func (c *modelsCmd) Run(g *globals) error {
	if c.Refresh {
		return c.refresh(g)
	}
	if c.Kind != "" && catalogue.Default(c.Kind).ID == "" {
		return app.Usage(fmt.Errorf("--kind: there is no kind %q", c.Kind))
	}
	encoder := json.NewEncoder(g.stdout)
	t := newTable(column{name: "MODEL", shorten: shortModels}, column{name: "KIND", least: 5}, column{name: "A MINUTE", brief: "/MIN"},
		column{name: "NEURONS", shorten: shortPrices}, column{name: "NOTE", shorten: shortNotes, least: 7})
	for _, m := range catalogue.All() {
		gone := m.Withdrawn(time.Now())
		if m.Kind == "" || c.Kind != "" && m.Kind != c.Kind || gone && !c.Withdrawn {
			continue
		}
		if c.JSON {
			if err := encoder.Encode(m); err != nil {
				return err
			}
			continue
		}
		t.add(m.ID, m.Kind, m.PerMinute, price(m), note(m, gone))
	}
	if c.JSON {
		return nil
	}
	return t.print(g.stdout)
}

// shortPrices keeps only the figures of text prices.
func shortPrices(cells []string) {
	short := strings.NewReplacer(" in, ", "/", " out per M tokens", "", " per M tokens", "", " a picture", " each", " a minute", "/min")
	for i, cell := range cells {
		cells[i] = short.Replace(cell)
	}
}

func shortNotes(cells []string) {
	for i, cell := range cells {
		cells[i] = strings.Replace(cell, "Workers Paid", "paid plan", 1)
	}
}

func price(m catalogue.Model) string {
	switch p := m.Price; {
	case p.PerMOutput > 0:
		return fmt.Sprintf("%g in, %g out per M tokens", p.PerMInput, p.PerMOutput)
	case p.PerMInput > 0:
		return fmt.Sprintf("%g per M tokens", p.PerMInput)
	case p.PerAudioMinute > 0:
		return fmt.Sprintf("%g a minute", p.PerAudioMinute)
	case m.ImageNeurons(0, 0, 0) > 0:
		return fmt.Sprintf("%.4g a picture", m.ImageNeurons(0, 0, 0))
	}
	return "-"
}

func note(m catalogue.Model, gone bool) string {
	switch {
	case gone:
		return "withdrawn " + m.WithdrawnOn + ", use " + m.Successor
	case m.ID == catalogue.Default(m.Kind).ID:
		return "default"
	case m.Paid:
		return "Workers Paid"
	}
	return m.Notes
}

// refresh compares the table with the API's catalogue. The table is part of the program:
// differences are for its next release.
func (c *modelsCmd) refresh(g *globals) error {
	ai, note := app.OpenAI(g.settings)
	if note != "" {
		fmt.Fprintln(g.stderr, note)
	}
	remote, err := ai.Catalogue(g.ctx)
	if err != nil {
		return fmt.Errorf("ask the catalogue: %w", err)
	}
	w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	seen := map[string]bool{}
	for _, m := range remote {
		seen[m.ID] = true
		own, known := catalogue.Find(m.ID)
		switch {
		case !known:
			fmt.Fprintf(w, "new\t%s\t%s; --allow-unknown-model lets it through\n", m.ID, m.Task)
		case m.WithdrawnOn != "" && m.WithdrawnOn != own.WithdrawnOn:
			fmt.Fprintf(w, "leaves\t%s\t%s\n", m.ID, m.WithdrawnOn)
		case m.Context != 0 && m.Context != own.Context && own.Kind == string(tasks.KindText):
			fmt.Fprintf(w, "context\t%s\t%d, here %d\n", m.ID, m.Context, own.Context)
		}
	}
	for _, m := range catalogue.All() {
		if m.WithdrawnOn == "" && !seen[m.ID] {
			fmt.Fprintf(w, "gone\t%s\tnot in the catalogue\n", m.ID)
		}
	}
	fmt.Fprintf(w, "%d models in the catalogue\t\t\n", len(remote))
	return w.Flush()
}
