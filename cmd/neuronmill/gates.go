package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/tasks"
)

type gatesCmd struct {
	Watch bool          `help:"Show them again and again until Ctrl-C."`
	Every time.Duration `default:"1s" help:"How often --watch does."`
}

// Help is shown by --help.
func (gatesCmd) Help() string {
	return examples("neuronmill gates", "neuronmill gates --watch") + `
Each model has a gate, shared by all workers. PACE is requests a minute and where the figure comes from: the
catalogue, the settings (NEURONMILL_LIMITS), set by hand (neuronmill gate set), and how much of it is left where the API
said less. PARKED are tasks that leave the workers to other models until their own has room.

  open      calls pass at the pace
  learned   the API throttled below the pace: it is lower, and heals in steps
  narrow    the API has little capacity: only so many calls at a time
  closed    nobody passes until the time shown
  probing   one call finds out whether it may open
  held      the account is refused: one call tries again after 1, 2, 5 and
            then every 15 minutes; neuronmill gate open MODEL opens it at once

  neuronmill gates --watch`
}

// Run prints all gates that have been used.
func (c *gatesCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	gates := stack.Gate(g.settings, 0, g.log)
	for {
		states, err := gatesTable(g.ctx, stack, gates)
		if err != nil {
			return err
		}
		if c.Watch {
			fmt.Fprint(g.stdout, "\x1b[H\x1b[2J", time.Now().Format(time.TimeOnly), "  Ctrl-C ends\n")
		}
		if err := states.print(g.stdout); err != nil || !c.Watch {
			return err
		}
		select {
		case <-g.ctx.Done():
			return nil
		case <-time.After(max(c.Every, 100*time.Millisecond)):
		}
	}
}

// gateTable is a table of gates. On a terminal, the notes are below it, where they fit.
type gateTable struct {
	table
	notes []string // one per row
}

func (t gateTable) print(w io.Writer) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, "no gate has been used yet")
		return err
	}
	if width := terminalWidth(w); width == 0 {
		t.columns = append(t.columns, column{name: "NOTE"})
		for i := range t.rows {
			t.rows[i] = append(t.rows[i], t.notes[i])
		}
		return t.table.print(w)
	}
	names := make([]string, len(t.rows))
	for i, row := range t.rows {
		names[i] = row[0]
	}
	if err := t.table.print(w); err != nil {
		return err
	}
	for i, note := range t.notes {
		if note != "" {
			fmt.Fprintln(w, fitted(w, names[i]+": "+note))
		}
	}
	return nil
}

func gatesTable(ctx context.Context, stack *app.Stack, gates *gate.Gate) (gateTable, error) {
	t := gateTable{table: *newTable(column{name: "GATE", shorten: shortModels, least: 12}, column{name: "STATE"}, column{name: "PACE", shorten: shortPaces, least: 5},
		column{name: "IN FLIGHT", brief: "NOW"}, column{name: "INTERACTIVE", brief: "INTER"}, column{name: "BULK"}, column{name: "PARKED"},
		column{name: "CALLS"}, column{name: "429S"})}
	states, err := gates.States(ctx)
	if err != nil {
		return t, err
	}
	for _, s := range states {
		parked, err := parkedAt(ctx, stack, s.Name)
		if err != nil {
			return t, err
		}
		t.add(s.Name, s.Word(), paceText(s), s.InFlight, s.Interactive, s.Bulk, parked, s.Calls, s.Throttled+s.Busy)
		t.notes = append(t.notes, gateNote(s))
	}
	return t, nil
}

// shortPaces omits the source of the figures.
func shortPaces(cells []string) {
	for i, cell := range cells {
		for _, source := range []string{" catalogue", " settings", " set"} {
			cell = strings.Replace(cell, source, "", 1)
		}
		cells[i] = cell
	}
}

func parkedAt(ctx context.Context, stack *app.Stack, model string) (int, error) {
	total := 0
	for _, q := range tasks.Queues() {
		n, err := stack.Redis.ZCard(ctx, queue.DeferredKey(q, model)).Result()
		if err != nil {
			return 0, fmt.Errorf("count the parked tasks: %w", err)
		}
		total += int(n)
	}
	return total, nil
}

func paceText(s gate.State) string {
	if s.Name == gate.Account {
		return "-"
	}
	text := fmt.Sprintf("%d %s", s.Pace.PerMinute, s.Pace.Source)
	if s.RateFactor < 1 {
		text += fmt.Sprintf(", learned %.0f", float64(s.Pace.PerMinute)*s.RateFactor)
	}
	return text
}

func gateNote(s gate.State) string {
	switch {
	case s.Refused:
		again := "now"
		if s.Closed > 0 {
			again = time.Now().Add(s.Closed).Format(time.TimeOnly)
		}
		return fmt.Sprintf("%s: tried again at %s, or at once: neuronmill gate open %s", s.Why, again, s.Name)
	case s.Closed > 0:
		return fmt.Sprintf("%s, for %s until %s", s.Why, s.Closed.Round(time.Second), time.Now().Add(s.Closed).Format(time.TimeOnly))
	case s.Concurrency > 0:
		return fmt.Sprintf("at most %d calls at a time", s.Concurrency)
	}
	return s.Why
}

type gateCmd struct {
	Set  gateSetCmd  `cmd:"" help:"Change a gate's pace for all workers, from now on."`
	Open gateOpenCmd `cmd:"" help:"Open a closed or held gate at once."`
}

// Help is shown by --help.
func (gateCmd) Help() string {
	return examples("neuronmill gate set @cf/baai/bge-m3 600", "neuronmill gate open account") + `
What is changed here holds for all workers at once.`
}

type gateSetCmd struct {
	Gate string `arg:"" help:"A model, or KIND:total."`
	Pace string `arg:"" help:"Requests a minute, 0 closes it; 'default' goes back to settings and catalogue."`
}

// Help is shown by --help.
func (gateSetCmd) Help() string {
	return examples(
		"neuronmill gate set @cf/baai/bge-m3 600",
		"neuronmill gate set embedding:total 3000",
		"neuronmill gate set @cf/baai/bge-m3 0",
		"neuronmill gate set @cf/baai/bge-m3 default",
	) + `
It holds for all workers and outlives their restart, until it is set back.`
}

// Run changes the pace.
func (c *gateSetCmd) Run(g *globals) error {
	c.Gate = wholeModel(c.Gate)
	if err := checkGate(c.Gate); err != nil {
		return err
	}
	perMinute, err := strconv.Atoi(c.Pace)
	if c.Pace != "default" && (err != nil || perMinute < 0 || perMinute > 1_000_000) {
		return app.Usage(fmt.Errorf("pace %q is neither requests a minute, 0 to 1000000, nor 'default'", c.Pace))
	}
	return changeGate(g, func(gates *gate.Gate) error {
		if c.Pace == "default" {
			return gates.Reset(g.ctx, c.Gate)
		}
		return gates.Set(g.ctx, c.Gate, perMinute)
	})
}

type gateOpenCmd struct {
	Gate string `arg:"" help:"A model, KIND:total, or account."`
}

// Help is shown by --help.
func (gateOpenCmd) Help() string {
	return examples("neuronmill gate open @cf/baai/bge-m3", "neuronmill gate open account") + `
For when what closed it has been mended: a licence accepted, a token renewed, a plan bought.`
}

// Run opens the gate.
func (c *gateOpenCmd) Run(g *globals) error {
	c.Gate = wholeModel(c.Gate)
	if err := checkGate(c.Gate); err != nil {
		return err
	}
	return changeGate(g, func(gates *gate.Gate) error { return gates.Open(g.ctx, c.Gate) })
}

// checkGate detects typing errors. Models that the catalogue does not know are allowed.
func checkGate(name string) error {
	if _, known := catalogue.Find(name); known || name == gate.Account || len(name) > 1 && name[0] == '@' {
		return nil
	}
	for _, s := range tasks.Specs {
		if name == gate.TotalOf(string(s.Kind)) {
			return nil
		}
	}
	return app.Usage(errors.New(name + " is no gate: give a model (neuronmill models), KIND:total or account"))
}

func changeGate(g *globals, change func(*gate.Gate) error) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	gates := stack.Gate(g.settings, 0, g.log)
	if err := change(gates); err != nil {
		return err
	}
	states, err := gatesTable(g.ctx, stack, gates)
	if err != nil {
		return err
	}
	return states.print(g.stdout)
}
