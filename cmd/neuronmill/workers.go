package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/tasks"
)

type workersCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

// Help is shown by --help.
func (workersCmd) Help() string {
	return examples("neuronmill workers", "neuronmill workers --json | jq .queues") + `
Each worker process, by its last heartbeat in Redis: some seconds old, and left for up to ten seconds by a process that was killed. SLOTS are the tasks that it may have at a time,
BUSY those that it has, which are called or wait for their gate.`
}

// Run lists the worker processes.
func (c *workersCmd) Run(g *globals) error {
	stack, err := client(g)
	if err != nil {
		return err
	}
	defer stack.Close()
	workers, err := stack.Monitor().Workers(g.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(g.stdout)
		for _, w := range workers {
			if err := encoder.Encode(w); err != nil {
				return err
			}
		}
		return nil
	}
	if len(workers) == 0 {
		fmt.Fprintln(g.stdout, "no worker runs; start one: neuronmill worker")
		return nil
	}
	t := newTable(column{name: "HOST", least: 12}, column{name: "PID"}, column{name: "STATUS"}, column{name: "STARTED", shorten: shortTimes},
		column{name: "BUSY"}, column{name: "SLOTS"}, column{name: "KINDS", least: 8})
	for _, w := range workers {
		slots, busy := w.Slots()
		t.add(w.Host, w.PID, w.Status, w.Started.Format(time.RFC3339), busy, slots, kindsText(w))
	}
	return t.print(g.stdout)
}

// kindsText returns the kinds that a worker accepts.
func kindsText(w monitor.Worker) string {
	kinds := w.Kinds()
	if len(kinds) == len(tasks.Specs) {
		return "all"
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ",")
}
