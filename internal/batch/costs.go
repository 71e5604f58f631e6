package batch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// Cost is the cost of tasks of one model that ended on one day. A shard has it, since the
// results of its tasks are deleted.
type Cost struct {
	Day          string `json:"day"`             // in UTC, such as 2026-11-27
	Model        string `json:"model,omitempty"` // empty for the models beyond mostCosts
	Tasks        int    `json:"tasks"`
	Calls        int    `json:"calls"`
	Unsettled    int    `json:"unsettled,omitempty"` // calls of unknown price
	MicroNeurons int64  `json:"micro_neurons"`       // millionths of a neuron
}

// mostCosts bounds the costs of a shard.
const mostCosts = 100

// cost returns the cost of the task; none when it was refused.
func (r *taskResult) cost() []Cost {
	if r.FinishedAt.IsZero() {
		return nil
	}
	return []Cost{{
		Day: r.FinishedAt.UTC().Format(time.DateOnly), Model: r.Model, Tasks: 1,
		Calls: r.Usage.Calls, Unsettled: r.Usage.Unsettled, MicroNeurons: r.Usage.MicroNeurons(),
	}}
}

// addCosts adds costs to others, by day and model.
func addCosts(sums, more []Cost) []Cost {
	for _, c := range more {
		at := indexOf(sums, c.Day, c.Model)
		if at < 0 && len(sums) >= mostCosts {
			c.Model = ""
			at = indexOf(sums, c.Day, "")
		}
		if at < 0 {
			sums = append(sums, c)
			continue
		}
		s := &sums[at]
		s.Tasks, s.Calls, s.Unsettled, s.MicroNeurons = s.Tasks+c.Tasks, s.Calls+c.Calls, s.Unsettled+c.Unsettled, s.MicroNeurons+c.MicroNeurons
	}
	return sums
}

func indexOf(sums []Cost, day, model string) int {
	for i, s := range sums {
		if s.Day == day && s.Model == model {
			return i
		}
	}
	return -1
}

// ShardCosts are the costs of a shard: those of the tasks of one segment in one round.
type ShardCosts struct {
	Batch   string
	Round   int
	Segment int
	Key     string // id of the API key that submitted the batch; empty for none
	Costs   []Cost
}

// Holds reports whether the shard has the cost of a task of this origin.
func (s ShardCosts) Holds(o tasks.Origin) bool {
	return o.Batch == s.Batch && strings.HasPrefix(o.Chunk, fmt.Sprintf("%d/%d/", s.Round, s.Segment))
}

// Costs yields the costs of all shards of the tenant that were written at a time or later.
func (b *Batches) Costs(ctx context.Context, since time.Time, yield func(ShardCosts) error) error {
	var current *Batch
	for info, err := range b.Store.List(ctx, b.root(), "") {
		if err != nil {
			return fmt.Errorf("list the batches: %w", err)
		}
		id, round, segment, ok := shardOf(strings.TrimPrefix(info.Key, b.root()))
		if !ok || info.Modified.Before(since) {
			continue
		}
		if current == nil || current.ID != id {
			current, err = b.Get(ctx, id)
		}
		var head shardHead
		if err == nil {
			head, _, err = b.shardHead(ctx, id, round, segment)
		}
		if errors.Is(err, ErrNotFound) || errors.Is(err, storage.ErrNotFound) {
			current = nil
			continue // removed meanwhile
		}
		if err == nil {
			err = yield(ShardCosts{Batch: id, Round: round, Segment: segment, Key: current.Key, Costs: head.Costs})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shardOf splits the name of a shard below the folder of batches.
func shardOf(name string) (id string, round, segment int, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[1] != "shards" {
		return "", 0, 0, false
	}
	round, err := strconv.Atoi(parts[2])
	segment, err2 := strconv.Atoi(strings.TrimSuffix(parts[3], ".jsonl"))
	return parts[0], round, segment, err == nil && err2 == nil
}
