package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/limit"
	"github.com/neuronmill/neuronmill/tasks"
)

type gatesCmd struct {
	Watch bool          `help:"Show them again and again until Ctrl-C."`
	Every time.Duration `default:"1s" help:"How often --watch does."`
}

// Help is shown by --help.
func (gatesCmd) Help() string {
	return `Each model has a gate, shared by all workers. PACE is requests a minute and where the figure comes from: the
catalogue, the settings (NEURONMILL_LIMITS), set by hand (neuronmill gate set), and how much of it is left where the API
said less. PARKED are tasks that leave the workers to other models until their own has room.

  open      calls pass at the pace
  learned   the API throttled below the pace: it is lower and heals step by step
  narrow    the API has little capacity: only so many calls at a time
  closed    nobody passes until the time shown
  probing   one call finds out whether it may open
  held      a person must open it: neuronmill gate open MODEL

  neuronmill gates --watch`
}

// Run prints the gates that were ever used.
func (c *gatesCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	gate := stack.Gate(g.settings, 0, g.log)
	for {
		table, err := gatesTable(g.ctx, stack, gate)
		if err != nil {
			return err
		}
		if c.Watch {
			fmt.Fprint(g.stdout, "\x1b[H\x1b[2J", time.Now().Format(time.TimeOnly), "  Ctrl-C ends\n")
		}
		fmt.Fprint(g.stdout, table)
		if !c.Watch {
			return nil
		}
		select {
		case <-g.ctx.Done():
			return nil
		case <-time.After(max(c.Every, 100*time.Millisecond)):
		}
	}
}

func gatesTable(ctx context.Context, stack *app.Stack, gate *limit.Gate) (string, error) {
	states, err := gate.States(ctx)
	if err != nil {
		return "", err
	}
	if len(states) == 0 {
		return "no gate has been used yet\n", nil
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GATE\tSTATE\tPACE\tIN FLIGHT\tINTERACTIVE\tBULK\tPARKED\tCALLS\t429S\tNOTE")
	for _, s := range states {
		parked, err := parkedAt(ctx, stack, s.Name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", s.Name, s.Word(), paceText(s), s.InFlight,
			s.Interactive, s.Bulk, parked, s.Calls, s.Throttled+s.Busy, gateNote(s))
	}
	err = w.Flush()
	return b.String(), err
}

func parkedAt(ctx context.Context, stack *app.Stack, model string) (int, error) {
	total := 0
	for _, q := range tasks.Queues() {
		n, err := stack.Redis.ZCard(ctx, tasks.ParkedKey(q, model)).Result()
		if err != nil {
			return 0, fmt.Errorf("count the parked tasks: %w", err)
		}
		total += int(n)
	}
	return total, nil
}

func paceText(s limit.State) string {
	if s.Name == limit.Account {
		return "-"
	}
	text := fmt.Sprintf("%d %s", s.Pace.PerMinute, s.Pace.Source)
	if s.Factor < 1 {
		text += fmt.Sprintf(", learned %.0f", float64(s.Pace.PerMinute)*s.Factor)
	}
	return text
}

func gateNote(s limit.State) string {
	switch {
	case s.Held:
		return s.Why + ": neuronmill gate open " + s.Name
	case s.Closed > 0:
		return fmt.Sprintf("%s, for %s until %s", s.Why, s.Closed.Round(time.Second), time.Now().Add(s.Closed).Format(time.TimeOnly))
	case s.Width > 0:
		return fmt.Sprintf("at most %d calls at a time", s.Width)
	}
	return s.Why
}

type gateCmd struct {
	Set  gateSetCmd  `cmd:"" help:"Change a gate's pace for all workers, from now on."`
	Open gateOpenCmd `cmd:"" help:"Open a closed or held gate at once."`
}

// Help is shown by --help.
func (gateCmd) Help() string {
	return `What is changed here holds for all workers at once.

  neuronmill gates
  neuronmill gate set @cf/baai/bge-m3 600
  neuronmill gate open account`
}

type gateSetCmd struct {
	Gate string `arg:"" help:"A model, or KIND:total."`
	Pace string `arg:"" help:"Requests a minute, 0 closes it; 'default' goes back to settings and catalogue."`
}

// Help is shown by --help.
func (gateSetCmd) Help() string {
	return `It holds for all workers and outlives their restart, until it is set back:

  neuronmill gate set @cf/baai/bge-m3 600
  neuronmill gate set embedding:total 3000
  neuronmill gate set @cf/baai/bge-m3 0
  neuronmill gate set @cf/baai/bge-m3 default`
}

// Run changes the pace.
func (c *gateSetCmd) Run(g *globals) error {
	if err := checkGate(c.Gate); err != nil {
		return err
	}
	perMinute, err := strconv.Atoi(c.Pace)
	if c.Pace != "default" && (err != nil || perMinute < 0 || perMinute > 1_000_000) {
		return app.Usage(fmt.Errorf("pace %q is neither requests a minute, 0 to 1000000, nor 'default'", c.Pace))
	}
	return changeGate(g, func(gate *limit.Gate) error {
		if c.Pace == "default" {
			return gate.Reset(g.ctx, c.Gate)
		}
		return gate.Set(g.ctx, c.Gate, perMinute)
	})
}

type gateOpenCmd struct {
	Gate string `arg:"" help:"A model, KIND:total, or account."`
}

// Help is shown by --help.
func (gateOpenCmd) Help() string {
	return `For when what closed it has been mended: a licence accepted, a token renewed, a plan bought.

  neuronmill gate open @cf/baai/bge-m3
  neuronmill gate open account`
}

// Run opens the gate.
func (c *gateOpenCmd) Run(g *globals) error {
	if err := checkGate(c.Gate); err != nil {
		return err
	}
	return changeGate(g, func(gate *limit.Gate) error { return gate.Open(g.ctx, c.Gate) })
}

// checkGate finds slips of the pen; models that the catalogue does not know may exist.
func checkGate(name string) error {
	if _, known := catalogue.Find(name); known || name == limit.Account || len(name) > 1 && name[0] == '@' {
		return nil
	}
	for _, s := range tasks.Specs {
		if name == limit.TotalOf(string(s.Kind)) {
			return nil
		}
	}
	return app.Usage(errors.New(name + " is no gate: give a model (neuronmill models), KIND:total or account"))
}

func changeGate(g *globals, change func(*limit.Gate) error) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	gate := stack.Gate(g.settings, 0, g.log)
	if err := change(gate); err != nil {
		return err
	}
	table, err := gatesTable(g.ctx, stack, gate)
	fmt.Fprint(g.stdout, table)
	return err
}
