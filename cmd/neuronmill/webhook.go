package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/webhook"
)

type webhookCmd struct {
	Log    webhookLogCmd    `cmd:"" help:"List the latest tries."`
	Replay webhookReplayCmd `cmd:"" help:"Send webhooks again, with the same ids."`
	Keys   webhookKeysCmd   `cmd:"" help:"Print the keys that receivers verify with."`
}

// Help is shown by --help.
func (webhookCmd) Help() string {
	return examples("neuronmill enqueue text 'hi' --webhook https://shop.example/done", "neuronmill webhook log", "neuronmill webhook replay t_01a20ef874267941") + `
A task with --webhook tells its URL of the end, by the rules of Standard Webhooks: signed, tried for three days. Workers sign with NEURONMILL_WEBHOOK_SECRET.`
}

type webhookLogCmd struct {
	Tenant string `default:"default" help:"Whose."`
	Limit  int    `default:"50" help:"At most so many, up to 1000."`
}

// Help is shown by --help.
func (webhookLogCmd) Help() string {
	return examples("neuronmill webhook log", "neuronmill webhook log --tenant shop --limit 200") + `
The latest tries, newest first: the answer of the receiver, and when the next try is due.`
}

// Run lists tries.
func (c *webhookLogCmd) Run(g *globals) error {
	if c.Limit < 1 {
		return app.Usage(errors.New("--limit wants a number from 1"))
	}
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	entries, err := stack.Webhooks().Log(g.ctx, c.Tenant, c.Limit)
	if err != nil {
		return err
	}
	t := newTable(column{name: "TASK", shorten: shortIDs}, column{name: "TIME", shorten: shortTimes}, column{name: "TRY"}, column{name: "STATE"},
		column{name: "NEXT", shorten: shortTimes}, column{name: "HOST", least: 8}, column{name: "ANSWER", least: 8})
	for _, e := range entries {
		next := ""
		if !e.Next.IsZero() {
			next = e.Next.Format(time.RFC3339)
		}
		t.add(e.Task, e.Time.Format(time.RFC3339), e.Attempt, e.State, next, e.Host, e.Answer)
	}
	return t.print(g.stdout)
}

type webhookReplayCmd struct {
	Tenant string   `default:"default" help:"Whose."`
	IDs    []string `arg:"" name:"id" help:"Of the tasks."`
}

// Help is shown by --help.
func (webhookReplayCmd) Help() string {
	return examples("neuronmill webhook replay t_01a20ef874267941") + `
The receiver gets the same id again, so that it can leave out what it has seen.`
}

// Run queues deliveries again.
func (c *webhookReplayCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	for _, id := range c.IDs {
		if err := stack.Webhooks().Replay(g.ctx, c.Tenant, webhook.ID(id)); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		fmt.Fprintln(g.stdout, id, "is sent again by the next worker")
	}
	return nil
}

type webhookKeysCmd struct {
	Tenant string `default:"default" help:"Whose."`
}

// Help is shown by --help.
func (webhookKeysCmd) Help() string {
	return examples("neuronmill webhook keys --tenant shop") + `
whsec_ is the tenant's secret for signatures v1; give it to the tenant alone. whpk_ verifies signatures v1a and is no secret. There is a pair for each secret in
NEURONMILL_WEBHOOK_SECRET.`
}

// Run prints keys.
func (c *webhookKeysCmd) Run(g *globals) error {
	signers, err := webhook.ParseSecrets(string(g.settings.WebhookSecret))
	if err == nil && len(signers) == 0 {
		err = errors.New("set NEURONMILL_WEBHOOK_SECRET, for this command and for all workers: openssl rand -hex 32 makes one")
	}
	if err != nil {
		return app.Usage(err)
	}
	for _, s := range signers {
		fmt.Fprintln(g.stdout, s.Secret(c.Tenant))
		fmt.Fprintln(g.stdout, s.PublicKey())
	}
	return nil
}
