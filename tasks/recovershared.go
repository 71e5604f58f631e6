package tasks

import (
	"context"
	"errors"
	"slices"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"golang.org/x/sync/errgroup"
)

// recoverShared checks the tasks of a shared record. It returns the keys to delete from
// the bucket: that of the record, once all its tasks have ended.
func (c *Client) recoverShared(ctx context.Context, r Recovery, tenant string, record objects.SharedRecord, n *Recovered) ([]string, error) {
	ended, err := taskstate.SharedEnds(ctx, c.cfg.Redis, record.First())
	if err != nil {
		return nil, err
	}
	var open []string
	for i, id := range record.IDs() {
		if ended[i] {
			n.Ended++
		} else {
			open = append(open, id)
		}
	}
	missing, err := c.missing(ctx, open)
	if err != nil {
		return nil, err
	}
	var lost []string
	for i, id := range open {
		if missing[i] {
			lost = append(lost, id)
		}
	}
	n.Queued += len(open) - len(lost)
	left := len(open)
	if len(lost) > 0 {
		over, err := c.recoverLost(ctx, r, tenant, record, lost, n)
		if err != nil {
			return nil, err
		}
		left -= over
	}
	if left > 0 {
		return nil, nil
	}
	return []string{record.Key(tenant)}, nil
}

// missing reports which tasks are in no queue.
func (c *Client) missing(ctx context.Context, ids []string) ([]bool, error) {
	missing := make([]bool, 0, len(ids))
	for page := range slices.Chunk(ids, perPipeline) {
		some, err := queue.Missing(ctx, c.cfg.Redis, Queues(), page)
		if err != nil {
			return nil, err
		}
		missing = append(missing, some...)
	}
	return missing, nil
}

// recoverLost reads from a shared record the tasks that Redis does not have. It puts them
// back, or counts and notes them as over: ended, damaged, or withdrawn by their producer.
func (c *Client) recoverLost(ctx context.Context, r Recovery, tenant string, record objects.SharedRecord, lost []string, n *Recovered) (over int, err error) {
	lines, damaged, err := readShared(ctx, c.cfg.Store, tenant, record)
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil // another process found that all have ended
	}
	if err != nil {
		return 0, err
	}
	found := make([]reading, len(lost))
	var g errgroup.Group
	g.SetLimit(recordsOnce)
	for i, id := range lost {
		line := lines[id]
		if line == nil {
			line = damaged
		}
		if line == nil { // withdrawn
			found[i].n.Ended = 1
			continue
		}
		g.Go(func() error {
			found[i] = c.rereadLine(ctx, r, pendingRecord{Tenant: tenant, ID: id}, line)
			return nil
		})
	}
	_ = g.Wait() // each keeps its own error
	var indexes []any
	for i, f := range found {
		if f.err == nil && (f.n.Ended > 0 || f.n.Damaged > 0 && r.Damaged != nil) {
			_, index, _ := objects.SharedRecordOf(lost[i])
			indexes = append(indexes, index)
		}
	}
	err = errors.Join(c.putBack(ctx, found, n), taskstate.AddSharedEnds(ctx, c.cfg.Redis, record.First(), indexes...))
	return len(indexes), err
}

// rereadLine decides about a task that Redis does not have by its line in a shared record.
// A task that has a record of its own is decided by that one.
func (c *Client) rereadLine(ctx context.Context, r Recovery, record pendingRecord, line []byte) reading {
	ended, err := c.hasResult(ctx, record)
	if err != nil {
		return reading{err: err}
	}
	if ended {
		return reading{n: Recovered{Ended: 1}, err: c.finishEnded(ctx, record, line)}
	}
	_, err = c.cfg.Store.Head(ctx, objects.PendingKey(record.Tenant, record.ID))
	switch {
	case err == nil:
		return reading{}
	case !errors.Is(err, storage.ErrNotFound):
		return reading{err: err}
	}
	return c.decideLost(ctx, r, record, line)
}
