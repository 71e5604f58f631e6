package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

type demoCmd struct{}

// Help is shown by --help.
func (demoCmd) Help() string {
	return examples("neuronmill demo") + `
One process brings an embedded Redis, a folder as the bucket and a worker, does eight tasks, says where their results lie, and ends. The emulator of Workers AI answers, unless
CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN name an account.`
}

// Run executes a task of every kind with the embedded defaults; of the settings it uses
// only the account. It keeps the folder with the results if there are any.
func (c *demoCmd) Run(g *globals) error {
	dir, err := os.MkdirTemp("", "neuronmill-demo-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	done := false
	defer func() {
		if !done {
			_ = os.RemoveAll(dir) // a leftover is in the folder for temporary files
		}
	}()
	g.settings.RedisURL, g.settings.StoreURL, g.settings.DataDir = "embedded:", "file:"+filepath.Join(dir, "bucket"), dir
	g.log = app.Logger(g.logs, "warn")
	results, err := c.work(g)
	if err != nil {
		return err
	}
	done = true
	return c.table(g, results, dir)
}

// work executes the demo's tasks. Redis and the worker have stopped when it returns.
func (c *demoCmd) work(g *globals) ([]*tasks.Result, error) {
	stack, err := app.Open(g.ctx, g.settings, false, g.log)
	if err != nil {
		return nil, err
	}
	defer stack.Close()
	fmt.Fprintf(g.stderr, "redis: %s\nbucket: %s\n", stack.Redis.Description, stack.Bucket)
	stop, err := startWorker(g, stack, func(err error) { g.log.Error("the worker stopped", "error", err) })
	if err != nil {
		return nil, err
	}
	defer stop()
	const audio = objects.DefaultTenant + "/files/demo/clip.wav"
	if err := stack.Store.Put(g.ctx, audio, bytes.NewReader(workersaitest.SampleWAV()), "audio/wav"); err != nil {
		return nil, err
	}
	var accepted []tasks.Receipt
	for _, out := range stack.Client.EnqueueMany(g.ctx, demoTasks(audio)) {
		if out.Err != nil {
			return nil, out.Err
		}
		accepted = append(accepted, out.Receipt)
	}
	return c.wait(g, stack, accepted)
}

func demoTasks(audio string) []tasks.Request {
	weather, err := tasks.Parse(tasks.KindText, []byte(`{"prompt": "What is the weather in Lisbon?", "tools": [{"type": "function",
		"function": {"name": "weather", "description": "look up the weather", "parameters": {"type": "object",
		"properties": {"city": {"type": "string", "description": "name of the city"}}, "required": ["city"]}}}]}`))
	if err != nil {
		panic(err) // the input is a constant
	}
	payloads := []tasks.Payload{
		tasks.Transcription{Audio: tasks.Audio{Key: audio}},
		tasks.Image{Prompt: "a mill by a river at dawn"},
		tasks.Image{Prompt: "a mill in the mountains"},
		tasks.Translation{Text: "Good morning, world", TargetLang: "es"},
		tasks.Translation{Text: "Hello and thanks", TargetLang: "de"},
		tasks.Embedding{Texts: []string{"red apples", "green apples", "a car engine"}},
		tasks.Text{Prompt: "Why does a queue need a gate?"},
		weather,
	}
	var requests []tasks.Request
	for _, p := range payloads {
		requests = append(requests, tasks.Request{Payload: p})
	}
	return requests
}

func (c *demoCmd) wait(g *globals, stack *app.Stack, accepted []tasks.Receipt) ([]*tasks.Result, error) {
	ctx, cancel := context.WithTimeout(g.ctx, 5*time.Minute)
	defer cancel()
	var results []*tasks.Result
	for i, a := range accepted {
		r, err := stack.Client.Wait(ctx, a.ID)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(g.stderr, "%d of %d  %-13s  %s\n", i+1, len(accepted), a.Kind, glance(g.settings, r))
		results = append(results, r)
	}
	return results, nil
}

// glance returns a short summary of a result.
func glance(settings app.Settings, r *tasks.Result) string {
	if r.Status == tasks.Failed {
		return r.Error.Error()
	}
	switch r.Kind {
	case tasks.KindEmbedding:
		out, _ := tasks.OutputOf[tasks.EmbeddingOutput](r)
		return fmt.Sprintf("%d vectors of %d numbers", len(out.Vectors), out.Dimensions)
	case tasks.KindImage:
		out, _ := tasks.OutputOf[tasks.ImageOutput](r)
		return fmt.Sprintf("%s, %d x %d pixels", path.Base(out.Image), out.Width, out.Height)
	case tasks.KindText:
		out, _ := tasks.OutputOf[tasks.TextOutput](r)
		if len(out.ToolCalls) > 0 {
			return fmt.Sprintf("asks for %s(%s)", out.ToolCalls[0].Name, out.ToolCalls[0].Arguments)
		}
	}
	const most = 50
	text := strings.Join(strings.Fields(mainResult(settings, r)), " ")
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

func (c *demoCmd) table(g *globals, results []*tasks.Result, dir string) error {
	t := newTable(column{name: "ID", shorten: shortIDs}, column{name: "KIND"}, column{name: "MODEL", shorten: shortModels, least: 12},
		column{name: "TOOK"}, column{name: "NEURONS"})
	failed := 0
	for _, r := range results {
		took := r.FinishedAt.Sub(r.CreatedAt).Round(time.Millisecond)
		t.add(r.ID, r.Kind, r.Model, took, fmt.Sprintf("%.2f", r.Usage.Neurons))
		if r.Status != tasks.Completed {
			failed++
		}
	}
	fmt.Fprintln(g.stdout)
	if err := t.print(g.stdout); err != nil {
		return err
	}
	fmt.Fprintf(g.stdout, "\nEach result lies in a folder of its own; the first one:\n\n  cat %s\n\nAll of it is left in %s\nTo remove it: rm -r %s\n",
		located(g.settings, objects.ResultKey(objects.DefaultTenant, results[0].ID)), dir, dir)
	if g.settings.AccountID == "" {
		fmt.Fprintf(g.stdout, "\n%s\n", fitted(g.stdout, "The emulator of Workers AI answered. To use a real account set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN."))
	}
	if failed > 0 {
		return &app.Exit{Code: app.ExitFailed, Err: fmt.Errorf("%d of %d tasks failed", failed, len(results))}
	}
	return nil
}
