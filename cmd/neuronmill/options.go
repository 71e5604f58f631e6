package main

import (
	"fmt"
	"maps"
	"path"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

// taskOptions are the options that all kinds have.
type taskOptions struct {
	Model             string            `placeholder:"ID" help:"Which model; see neuronmill models." group:"options"`
	Lane              string            `enum:"interactive,bulk" default:"interactive" help:"interactive or bulk." group:"options"`
	Deadline          time.Duration     `placeholder:"10m" help:"Give a task up after so long." group:"options"`
	Delay             time.Duration     `placeholder:"1h" help:"Run it so much later." group:"options"`
	Start             time.Time         `placeholder:"RFC3339" help:"Run it at that time or later." group:"options"`
	IdempotencyKey    string            `placeholder:"KEY" help:"The same key gives the same task; of several inputs each adds its row's key or number." group:"options"`
	Webhook           string            `placeholder:"URL" help:"Gets a signed request when the task has ended; https." group:"options"`
	MaxNeurons        float64           `placeholder:"N" help:"Most that a task may cost; it fails before a call that might cost more." group:"options"`
	Metadata          map[string]string `placeholder:"K=V" mapsep:"," help:"Words of yours that come back in the result." group:"options"`
	Accept            string            `enum:"store,redis" default:"store" help:"What an accepted task survives with: store, a record in the bucket; redis, faster and as durable as Redis." group:"options"`
	AllowUnknownModel bool              `help:"Accept a model that neuronmill does not know, or that is withdrawn." group:"options"`
}

// rowKey is the metadata key that holds the key of a row.
const rowKey = "key"

// of returns the options for one input; several reports whether there are more.
func (o taskOptions) of(p parsed, several bool) []tasks.Option {
	metadata := o.Metadata
	if p.key != "" {
		metadata = maps.Clone(metadata)
		if metadata == nil {
			metadata = map[string]string{}
		}
		metadata[rowKey] = p.key
	}
	options := []tasks.Option{tasks.WithLane(tasks.Lane(o.Lane)), tasks.WithModel(wholeModel(o.Model)), tasks.WithMetadata(metadata), tasks.WithWebhook(o.Webhook), tasks.WithMaxNeurons(o.MaxNeurons), tasks.WithDurability(tasks.Durability(o.Accept))}
	if o.Deadline != 0 {
		options = append(options, tasks.WithTimeToLive(o.Deadline))
	}
	if o.Delay != 0 {
		options = append(options, tasks.WithDelay(o.Delay))
	}
	if !o.Start.IsZero() {
		options = append(options, tasks.WithStart(o.Start))
	}
	if key := o.IdempotencyKey; key != "" {
		switch {
		case p.key != "":
			key += "/" + p.key
		case several:
			key = fmt.Sprintf("%s/%d", key, p.row)
		}
		options = append(options, tasks.WithIdempotencyKey(key))
	}
	return options
}

// end returns the deadline of a task accepted now.
func (o taskOptions) end(k tasks.Kind, now time.Time) time.Time {
	if o.Deadline > 0 {
		return now.Add(o.Deadline)
	}
	start := now.Add(o.Delay)
	if o.Start.After(start) {
		start = o.Start
	}
	spec, _ := tasks.SpecOf(k)
	return start.Add(spec.MaxAge)
}

// wholeModel expands the last part of a model id, as narrow tables show it.
func wholeModel(id string) string {
	if id == "" || strings.HasPrefix(id, "@") {
		return id
	}
	found := id
	for _, m := range catalogue.All() {
		if path.Base(m.ID) == id {
			if found != id {
				return id // two models have it
			}
			found = m.ID
		}
	}
	return found
}
