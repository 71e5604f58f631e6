package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/usage"
)

type usageCmd struct {
	Day     string `placeholder:"YYYY-MM-DD" help:"The last day, in UTC; today by default."`
	Days    int    `default:"1" placeholder:"N" help:"How many days until then, at most 40; 1 by default."`
	By      string `placeholder:"WHAT" help:"What the rows are: model, tenant, key, batch, schedule or day. By default model for one day, day for several."`
	Tenant  string `placeholder:"NAME" help:"Only this tenant."`
	CSV     bool   `name:"csv" xor:"form" help:"Comma-separated values with a header."`
	JSON    bool   `name:"json" xor:"form" help:"One JSON object, as GET /v1/usage."`
	Rebuild bool   `help:"First count the days again from the results in the bucket, at one request to it for each."`
}

// Help is shown by --help.
func (usageCmd) Help() string {
	return examples("neuronmill usage", "neuronmill usage --days 7", "neuronmill usage --day 2026-11-27 --by batch --csv", "neuronmill usage --days 2 --rebuild") + `
A task is counted when it ends, on that day in UTC, with all its calls. Neurons are what the API stated for each call; UNSETTLED calls may have been billed, but a worker or
connection broke before the price came. DOLLARS are the list price, 0.011 for 1,000 neurons; the account's first 10,000 neurons of each day are free.

Redis keeps 40 days. The bucket has the truth: after the loss of Redis, or of a worker, --rebuild corrects a day by the results and batches that the bucket still has. Workers may
run meanwhile.`
}

// Run prints the usage.
func (c *usageCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	q := usage.Query{Tenant: c.Tenant, Last: c.Day, Days: c.Days, By: usage.Dimension(c.By)}
	report, err := stack.Usage().Report(g.ctx, q, time.Now())
	if _, ok := errors.AsType[usage.InvalidQuery](err); ok {
		return app.Usage(fmt.Errorf("--%w", err))
	}
	if err == nil && c.Rebuild {
		if err := c.rebuild(g, stack, report); err != nil {
			return err
		}
		report, err = stack.Usage().Report(g.ctx, q, time.Now())
	}
	switch {
	case err != nil:
		return err
	case c.JSON:
		return json.NewEncoder(g.stdout).Encode(report)
	case c.CSV:
		return report.WriteCSV(g.stdout)
	}
	return writeUsage(g, report)
}

// rebuild counts the days of a report again.
func (c *usageCmd) rebuild(g *globals, stack *app.Stack, report usage.Report) error {
	last, err := time.Parse(time.DateOnly, report.To)
	if err != nil {
		return err
	}
	bar := newProgress(g, "read", 0)
	defer bar.stop()
	for _, date := range usage.LastDays(last, c.Days) {
		seen := 0
		n, err := stack.RebuildUsage(g.ctx, date, func(n usage.Rebuilt) {
			bar.add(n.Results - seen)
			seen = n.Results
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(g.stderr, "%s: %s neurons of %d tasks in the bucket, %s of %d were counted\n",
			date, neuronsText(n.After.Neurons()), n.After.Tasks, neuronsText(n.Before.Neurons()), n.Before.Tasks)
	}
	return nil
}

// neuronsText writes neurons with at most three decimals.
func neuronsText(n float64) string {
	text := strconv.FormatFloat(n, 'f', 3, 64)
	return strings.TrimRight(strings.TrimRight(text, "0"), ".")
}

func dollarsText(d float64) string { return fmt.Sprintf("$%.4f", d) }

func writeUsage(g *globals, report usage.Report) error {
	first := column{name: strings.ToUpper(string(report.By)), least: 8}
	if report.By == usage.ByModel {
		first.shorten = shortModels
	}
	t := newTable(first, column{name: "NEURONS"}, column{name: "DOLLARS"}, column{name: "TASKS"}, column{name: "CALLS"}, column{name: "UNSETTLED"})
	for _, r := range report.Rows {
		t.add(r.Value, neuronsText(r.Neurons), dollarsText(r.Dollars), r.Tasks, r.Calls, r.Unsettled)
	}
	if err := t.print(g.stdout); err != nil {
		return err
	}
	span := report.To
	if report.From != report.To {
		span = report.From + " to " + report.To
	}
	fmt.Fprintf(g.stdout, "\n%s UTC: %s neurons, %s list price", span, neuronsText(report.Total.Neurons), dollarsText(report.Total.Dollars))
	if report.Billed != nil {
		fmt.Fprintf(g.stdout, ", %s beyond the free 10,000 a day", dollarsText(*report.Billed))
	}
	fmt.Fprintln(g.stdout)
	if f := report.Forecast; f != nil {
		fmt.Fprintf(g.stdout, "Forecast for today at the pace of the last hour: %s neurons, %s\n", neuronsText(f.Neurons), dollarsText(f.Dollars))
	}
	return nil
}
