package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/usage"
)

type budgetCmd struct {
	List   budgetListCmd   `cmd:"" help:"List the caps and what was spent today."`
	Set    budgetSetCmd    `cmd:"" help:"Add or change a cap."`
	Remove budgetRemoveCmd `cmd:"" help:"Remove a cap."`
}

// Help is shown by --help.
func (budgetCmd) Help() string {
	return examples("neuronmill budget set account 10000", "neuronmill budget set bulk free", "neuronmill budget list") + `
A cap limits the neurons of a day in UTC. Workers reserve the highest price of each call before they send it and settle its true price afterwards, so that a cap is never
exceeded; what is over it waits or fails. neuronmill usage shows what was spent; --max-neurons bounds a single task.`
}

type budgetListCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

// Help is shown by --help.
func (budgetListCmd) Help() string {
	return examples("neuronmill budget list", "neuronmill budget list --json") + `
RESERVED is for calls under way, at the highest price they can have; a worker that was killed leaves its part until 00:00 UTC.`
}

// budgetJSON is a cap as --json prints it.
type budgetJSON struct {
	budget.Cap
	Spent    float64 `json:"spent"`
	Reserved float64 `json:"reserved"`
}

// Run lists the caps.
func (c *budgetListCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	return listCaps(g, stack, c.JSON)
}

func listCaps(g *globals, stack *app.Stack, asJSON bool) error {
	all, err := stack.Caps().List(g.ctx)
	if err != nil {
		return err
	}
	spent, reserved, err := budget.Spent(g.ctx, stack.Redis, all, time.Now())
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(g.stdout)
		for i, one := range all {
			if err := encoder.Encode(budgetJSON{one, spent[i], reserved[i]}); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(g.stdout, "there are no caps")
		return err
	}
	t := newTable(column{name: "CAP", least: 8}, column{name: "NEURONS"}, column{name: "SPENT"}, column{name: "RESERVED"}, column{name: "OVER"})
	for i, one := range all {
		t.add(one.String(), neuronsText(one.Neurons), neuronsText(spent[i]), neuronsText(reserved[i]), one.Over)
	}
	return t.print(g.stdout)
}

type budgetSetCmd struct {
	Cap  []string `arg:"" help:"account, bulk, free, tenant NAME or key ID, and the neurons of a day; free means 10000."`
	Over string   `enum:"wait,fail" default:"wait" help:"What tasks over the cap do: wait until 00:00 UTC, or fail with budget_exceeded."`
}

// Help is shown by --help.
func (budgetSetCmd) Help() string {
	return examples(
		"neuronmill budget set account 10000",
		"neuronmill budget set tenant acme 500 --over fail",
		"neuronmill budget set key 5e0a1c2b3d4f6a70 200",
		"neuronmill budget set bulk free",
	) + `
A cap of bulk lets bulk tasks use what all other tasks leave of so many neurons: with free, the account's free allocation, they cost nothing. Interactive tasks are counted, not held.

A cap of free does the same for batches with --spend free alone, which set it to 10000.

Workers follow within seconds, and tasks that wait go on within a minute once a cap is raised. What ended tasks have cost today counts, also from before. A call whose highest price is
above the whole cap fails.`
}

// Run sets a cap.
func (c *budgetSetCmd) Run(g *globals) error {
	if len(c.Cap) < 2 {
		return app.Usage(errors.New("give a scope and neurons: neuronmill budget set account 10000"))
	}
	last := len(c.Cap) - 1
	one, err := capOf(c.Cap[:last])
	if err != nil {
		return err
	}
	one.Neurons, one.Over = usage.FreePerDay, budget.Over(c.Over)
	if text := c.Cap[last]; text != "free" {
		if one.Neurons, err = strconv.ParseFloat(text, 64); err != nil {
			return app.Usage(fmt.Errorf("%q is no number of neurons, nor free", text))
		}
	}
	if err := one.Validate(); err != nil {
		return app.Usage(err)
	}
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	if err := stack.Usage().SetCap(g.ctx, stack.Caps(), one, time.Now()); err != nil {
		return err
	}
	return listCaps(g, stack, false)
}

// capOf reads the words that name a cap.
func capOf(words []string) (budget.Cap, error) {
	one := budget.Cap{Scope: budget.Scope(words[0]), Over: budget.Wait}
	switch len(words) {
	case 1:
	case 2:
		one.Name = words[1]
	default:
		return one, app.Usage(errors.New("too many words: a cap is account, bulk, free, tenant NAME or key ID"))
	}
	return one, app.Usage(one.Validate())
}

type budgetRemoveCmd struct {
	Cap []string `arg:"" help:"account, bulk, free, tenant NAME or key ID."`
}

// Help is shown by --help.
func (budgetRemoveCmd) Help() string {
	return examples("neuronmill budget remove account", "neuronmill budget remove tenant acme") + `
Tasks that wait for it go on within a minute.`
}

// Run removes a cap.
func (c *budgetRemoveCmd) Run(g *globals) error {
	one, err := capOf(c.Cap)
	if err != nil {
		return err
	}
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	err = stack.Caps().Remove(g.ctx, one.Scope, one.Name)
	if errors.Is(err, budget.ErrNotFound) {
		return app.Usage(fmt.Errorf("there is no cap of %s: see neuronmill budget list", one))
	}
	if err != nil {
		return err
	}
	return listCaps(g, stack, false)
}
