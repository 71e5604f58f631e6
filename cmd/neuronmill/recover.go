package main

import (
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/tasks"
)

type recoverCmd struct {
	OlderThan time.Duration `default:"1m" help:"Leave younger records alone: they may be on their way into the queue. 0s when no producer runs."`
	Index     bool          `help:"Also rebuild the list of ended tasks from the results of the last 7 days, at one request to the bucket for each."`
}

// Help is shown by --help.
func (recoverCmd) Help() string {
	return examples("neuronmill recover", "neuronmill recover --older-than 0s", "neuronmill recover --index") + `
After Redis was lost: every accepted task that has a record in the bucket and neither a result nor a place in the queue is put back. Workers do the same by themselves, soon after
they start and every few minutes. It may be run twice, and while they work.`
}

// Run rebuilds the queue from the bucket.
func (c *recoverCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	bar := newProgress(g, "looked at", 0)
	defer bar.stop()
	seen := 0
	n, err := stack.Client.Recover(g.ctx, tasks.Recovery{OlderThan: c.OlderThan, Progress: func(n tasks.Recovered) {
		bar.add(n.Records - seen)
		seen = n.Records
	}})
	bar.stop()
	fmt.Fprintf(g.stdout, "%d records: %d put back, %d in the queue already, %d had ended, %d younger than %s, %d damaged\n",
		n.Records, n.Returned, n.Queued, n.Ended, n.Young, c.OlderThan, n.Damaged)
	if err != nil || !c.Index {
		return err
	}
	return rebuildIndex(g, stack)
}

// rebuildIndex adds the results in the bucket to the list of ended tasks.
func rebuildIndex(g *globals, stack *app.Stack) error {
	bar := newProgress(g, "read", 0)
	defer bar.stop()
	seen := 0
	n, err := stack.Index().Rebuild(g.ctx, stack.Store, func(n index.Rebuilt) {
		bar.add(n.Results - seen)
		seen = n.Results
	})
	bar.stop()
	fmt.Fprintf(g.stdout, "%d results: %d put into the list, %d older than the list, %d damaged\n", n.Results, n.Added, n.Old, n.Damaged)
	return err
}
