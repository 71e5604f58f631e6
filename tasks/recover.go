package tasks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"golang.org/x/sync/errgroup"
)

// Recovery searches the pending records of all tenants for tasks that Redis has lost. It
// is safe to run at any time, repeatedly, and on several machines at once.
type Recovery struct {
	// OlderThan skips younger records: their tasks may be about to be enqueued, or their
	// writer may be about to delete them because Redis refused the task.
	OlderThan time.Duration
	// Progress is called from time to time; it may be nil.
	Progress func(Recovered)
	// Damaged ends a task whose record is unreadable; nil leaves the record.
	Damaged func(ctx context.Context, tenant, id string, document []byte) error
}

// Recovered counts the records that a Recovery has checked, by their state.
type Recovered struct {
	Records  int // checked
	Queued   int // in the queue, as expected
	Young    int // skipped because of OlderThan
	Returned int // put back into the queue
	Ended    int // had a result: the record is removed
	Damaged  int // unreadable
	Newer    int // of a newer version: kept for a newer worker until their deadline
}

// Recover puts tasks back into the queue that have a pending record, but no result and no
// entry in Redis. It requires a Store. It continues after errors and returns them joined.
func (c *Client) Recover(ctx context.Context, r Recovery) (Recovered, error) {
	if c.invalid != nil {
		return Recovered{}, c.invalid
	}
	var n Recovered
	var errs []error
	if c.cfg.Store == nil {
		return n, errors.New("recover needs a Store: the records lie in the bucket")
	}
	var page []pendingRecord
	var over []string // keys of shared records whose tasks have ended
	flush := func() error {
		err := c.recoverPage(ctx, r, page, &n)
		page = page[:0]
		if r.Progress != nil {
			r.Progress(n)
		}
		return err
	}
	for record, err := range pendingRecords(ctx, c.cfg.Store) {
		if err != nil {
			return n, errors.Join(append(errs, err)...)
		}
		n.Records += record.tasks()
		switch {
		case time.Since(record.Modified) < r.OlderThan:
			n.Young += record.tasks()
		case record.Shared != nil:
			keys, err := c.recoverShared(ctx, r, record.Tenant, *record.Shared, &n)
			over, errs = append(over, keys...), append(errs, err)
		default:
			page = append(page, record)
		}
		if len(page) == perPipeline {
			errs = append(errs, flush())
		}
	}
	if len(page) > 0 || len(over) > 0 {
		errs = append(errs, flush(), storage.DeleteMany(ctx, c.cfg.Store, over))
	}
	return n, errors.Join(errs...)
}

// pendingRecord is a pending record as a listing shows it.
type pendingRecord struct {
	Tenant, ID string
	Modified   time.Time
	Shared     *objects.SharedRecord // nil for the record of one task
}

// tasks returns the number of tasks in the record.
func (p pendingRecord) tasks() int {
	if p.Shared != nil {
		return len(p.Shared.IDs())
	}
	return 1
}

// pendingRecords lists the pending records of all tenants.
func pendingRecords(ctx context.Context, s storage.Store) iter.Seq2[pendingRecord, error] {
	return func(yield func(pendingRecord, error) bool) {
		for tenant, err := range objects.Tenants(ctx, s) {
			if err != nil {
				yield(pendingRecord{}, err)
				return
			}
			for info, err := range s.List(ctx, objects.PendingPrefix(tenant), "") {
				if err != nil {
					yield(pendingRecord{}, fmt.Errorf("list the pending records: %w", err))
					return
				}
				record, ok := parseRecord(tenant, info)
				if ok && !yield(record, nil) {
					return
				}
			}
		}
	}
}

// parseRecord reads the name of a pending record.
func parseRecord(tenant string, info storage.Info) (pendingRecord, bool) {
	if shared, ok := objects.ParseSharedKey(tenant, info.Key); ok {
		return pendingRecord{Tenant: tenant, Modified: info.Modified, Shared: &shared}, true
	}
	id, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, objects.PendingPrefix(tenant)), ".json")
	return pendingRecord{Tenant: tenant, ID: id, Modified: info.Modified}, ok && !strings.Contains(id, "/")
}

// reading is the content of a pending record of a task that Redis does not have.
type reading struct {
	task *Task // to be put back; nil otherwise
	n    Recovered
	err  error
}

// recoverPage checks one page of records.
func (c *Client) recoverPage(ctx context.Context, r Recovery, page []pendingRecord, n *Recovered) error {
	lost, err := c.lost(ctx, page)
	if err != nil {
		return err
	}
	n.Queued += len(page) - len(lost)
	found := make([]reading, len(lost))
	var g errgroup.Group
	g.SetLimit(recordsOnce)
	for i, record := range lost {
		g.Go(func() error {
			found[i] = c.reread(ctx, r, record)
			return nil
		})
	}
	_ = g.Wait() // each record keeps its own error
	return c.putBack(ctx, found, n)
}

// putBack enqueues the tasks of records, and counts the outcomes.
func (c *Client) putBack(ctx context.Context, found []reading, n *Recovered) error {
	var errs []error
	var back []Task
	for _, f := range found {
		if f.task != nil {
			f.task.RecoveredAt = time.Now().UTC()
			back = append(back, *f.task)
		}
		n.Ended += f.n.Ended
		n.Damaged += f.n.Damaged
		n.Newer += f.n.Newer
		errs = append(errs, f.err)
	}
	for i, p := range c.queueAll(ctx, back) {
		if p.Err != nil {
			errs = append(errs, fmt.Errorf("put %s back: %w", back[i].ID, p.Err))
			continue
		}
		n.Returned++
	}
	return errors.Join(errs...)
}

// hasResult reports whether the task of a record has ended.
func (c *Client) hasResult(ctx context.Context, record pendingRecord) (bool, error) {
	_, err := c.cfg.Store.Head(ctx, objects.ResultKey(record.Tenant, record.ID))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// reread reads the record of a task that Redis does not have. It deletes that of an ended
// one.
func (c *Client) reread(ctx context.Context, r Recovery, record pendingRecord) reading {
	key := objects.PendingKey(record.Tenant, record.ID)
	ended, err := c.hasResult(ctx, record)
	if err != nil {
		return reading{err: err}
	}
	body, err := c.cfg.Store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return reading{n: Recovered{Ended: 1}} // the task ended meanwhile
	}
	if err != nil {
		return reading{err: err}
	}
	defer body.Close()
	document, err := io.ReadAll(io.LimitReader(body, 1<<20))
	if err != nil {
		return reading{err: fmt.Errorf("read %s: %w", key, err)}
	}
	if ended {
		return reading{n: Recovered{Ended: 1}, err: errors.Join(c.finishEnded(ctx, record, document), c.cfg.Store.Delete(ctx, key))}
	}
	return c.decideLost(ctx, r, record, document)
}

// decideLost decides about a task that has a record, but neither a result nor an entry in
// Redis: it is put back, ended as damaged, or left to a newer worker.
func (c *Client) decideLost(ctx context.Context, r Recovery, record pendingRecord, document []byte) reading {
	task, err := Decode(document)
	switch {
	case err == nil && task.ID == record.ID && task.Tenant == record.Tenant:
		return reading{task: &task}
	case errors.Is(err, ErrNewerTask) && time.Now().Before(task.Deadline):
		return reading{n: Recovered{Newer: 1}}
	case r.Damaged == nil:
		return reading{n: Recovered{Damaged: 1}}
	}
	return reading{n: Recovered{Damaged: 1}, err: r.Damaged(ctx, record.Tenant, record.ID, document)}
}

// finishEnded completes the cleanup of a worker that crashed after it stored a result. It
// removes checkpoints and corrects the dead letters.
func (c *Client) finishEnded(ctx context.Context, record pendingRecord, document []byte) error {
	answers, failed := objects.ArtefactKey(record.Tenant, record.ID, "answer"), objects.FailedTaskKey(record.Tenant, record.ID)
	listed := false
	for info, err := range c.cfg.Store.List(ctx, objects.ArtefactKey(record.Tenant, record.ID, ""), "") {
		switch {
		case err != nil:
		case strings.HasPrefix(info.Key, answers):
			err = c.cfg.Store.Delete(ctx, info.Key)
		case info.Key == failed:
			listed = true
			err = unlist(ctx, c.cfg.Store, record.Tenant, record.ID)
		}
		if err != nil {
			return err
		}
	}
	if listed {
		return nil
	}
	r, err := StoredResult(ctx, c.cfg.Store, record.Tenant, record.ID)
	if errors.Is(err, ErrNotFound) || errors.Is(err, errDocument) || err == nil && (r.Status != Failed || r.Error == nil) {
		return nil
	}
	if err != nil {
		return err
	}
	return ListFailure(ctx, c.cfg.Store, record.Tenant, *r, func() ([]byte, error) { return document, nil }, true)
}

// lost returns the records whose tasks are in no queue.
func (c *Client) lost(ctx context.Context, page []pendingRecord) ([]pendingRecord, error) {
	ids := make([]string, len(page))
	for i, record := range page {
		ids[i] = record.ID
	}
	missing, err := c.missing(ctx, ids)
	if err != nil {
		return nil, err
	}
	var lost []pendingRecord
	for i, record := range page {
		if missing[i] {
			lost = append(lost, record)
		}
	}
	return lost, nil
}

// Requeue puts an accepted task back into the queue. A task that is already queued does
// not change.
func (c *Client) Requeue(ctx context.Context, t Task) error {
	if c.invalid != nil {
		return c.invalid
	}
	t.Redis = ""
	return c.queueAll(ctx, []Task{t})[0].Err
}
