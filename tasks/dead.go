package tasks

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"golang.org/x/sync/errgroup"
)

// Dead is an entry in the list of failures. The failed task and its result lie where
// every task's do; the entry is what makes listing them cheap in a large bucket.
type Dead struct {
	ID        string    `json:"id"`
	Kind      Kind      `json:"kind"`
	Model     string    `json:"model"`
	Error     Failure   `json:"error"`
	CreatedAt time.Time `json:"created_at"`
	FailedAt  time.Time `json:"failed_at"`
}

// DeadOf is the entry of a failed result.
func DeadOf(r Result) Dead {
	return Dead{ID: r.ID, Kind: r.Kind, Model: r.Model, Error: *r.Error, CreatedAt: r.CreatedAt, FailedAt: r.FinishedAt}
}

// Unlist takes a task out of the list of failures that has completed: a run that would
// have failed it came second, and may have died before it saw that.
func Unlist(ctx context.Context, s storage.Store, tenant, id string) error {
	first, err := StoredResult(ctx, s, tenant, id)
	if err != nil || first.Status == Failed {
		return err
	}
	if err := s.Delete(ctx, DeadKey(tenant, id)); err != nil {
		return err
	}
	return s.Delete(ctx, FailedTaskKey(tenant, id)) // last: it says that there is something to take out
}

// DeadFilter narrows Dead.
type DeadFilter struct {
	Kind  Kind   // all when empty
	Code  string // all when empty
	Limit int    // at most so many; 0 means no limit
}

// deadOnce is how many entries are read at a time.
const deadOnce = 32

// Dead lists failed tasks, in the order of their ids, which is about that of their
// acceptance. It needs a Store.
func (c *Client) Dead(ctx context.Context, f DeadFilter) iter.Seq2[Dead, error] {
	return func(yield func(Dead, error) bool) {
		given := 0
		for keys, err := range c.deadKeys(ctx) {
			var found []Dead
			if err == nil {
				found, err = c.readDead(ctx, keys)
			}
			if err != nil {
				yield(Dead{}, err)
				return
			}
			for _, d := range found {
				if f.Kind != "" && f.Kind != d.Kind || f.Code != "" && f.Code != d.Error.Code {
					continue
				}
				if !yield(d, nil) {
					return
				}
				if given++; given == f.Limit {
					return
				}
			}
		}
	}
}

// deadKeys gives the keys of the list some at a time.
func (c *Client) deadKeys(ctx context.Context) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		if c.cfg.Store == nil {
			yield(nil, errors.New("the list of failures lies in the bucket: the client needs a Store"))
			return
		}
		var keys []string
		for info, err := range c.cfg.Store.List(ctx, c.cfg.Tenant+"/dead/", "") {
			if err != nil {
				yield(nil, fmt.Errorf("list the failures: %w", err))
				return
			}
			if keys = append(keys, info.Key); len(keys) == deadOnce {
				if !yield(keys, nil) {
					return
				}
				keys = nil
			}
		}
		if len(keys) > 0 {
			yield(keys, nil)
		}
	}
}

// readDead reads entries in parallel; those that are dropped meanwhile are left out,
// one that is damaged is shown as such.
func (c *Client) readDead(ctx context.Context, keys []string) ([]Dead, error) {
	found := make([]Dead, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	for i, key := range keys {
		g.Go(func() error {
			err := readJSON(ctx, c.cfg.Store, key, &found[i])
			id := strings.TrimSuffix(path.Base(key), ".json")
			switch {
			case errors.Is(err, storage.ErrNotFound):
				found[i] = Dead{}
				return nil
			case errors.Is(err, errDocument) || err == nil && found[i].ID != id:
				found[i] = Dead{ID: id, Error: Failure{Code: "entry_damaged", Message: "the entry cannot be read; the result can"}}
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read the failures: %w", err)
	}
	return slices.DeleteFunc(found, func(d Dead) bool { return d.ID == "" }), nil
}

// Drop takes a failed task off the list of failures and removes what running it again
// would need. Its result is final and stays. ErrNotFound when it is not on the list.
func (c *Client) Drop(ctx context.Context, id string) error {
	if c.cfg.Store == nil {
		return errors.New("the list of failures lies in the bucket: the client needs a Store")
	}
	key := DeadKey(c.cfg.Tenant, id)
	if _, err := c.cfg.Store.Head(ctx, key); errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return ErrNotFound
	} else if err != nil {
		return err
	}
	for _, name := range []string{"task.json", "input.json"} {
		if err := c.cfg.Store.Delete(ctx, ArtefactKey(c.cfg.Tenant, id, name)); err != nil {
			return err
		}
	}
	return c.cfg.Store.Delete(ctx, key)
}

// Retry runs a failed task again as a new one, since a result is final: its metadata
// has retry_of. Retrying the same task once more gives the same new task. It needs a
// Store, where the failed task lies beside its result.
func (c *Client) Retry(ctx context.Context, id string) (Accepted, error) {
	if c.cfg.Store == nil {
		return Accepted{}, errors.New("retry needs a Store: the failed task lies in the bucket")
	}
	r, err := c.storedResult(ctx, id)
	if err != nil {
		return Accepted{}, err
	}
	if r.Status != Failed {
		return Accepted{}, fmt.Errorf("retry %s: it completed", id)
	}
	var t Task
	if err := readJSON(ctx, c.cfg.Store, FailedTaskKey(c.cfg.Tenant, id), &t); err != nil {
		return Accepted{}, fmt.Errorf("retry %s: %w", id, err)
	}
	payload, err := t.Input(ctx, c.cfg.Store)
	if err != nil {
		return Accepted{}, fmt.Errorf("retry %s: %w", id, err)
	}
	metadata := map[string]string{"retry_of": id}
	for k, v := range t.Metadata {
		if len(metadata) < 16 && k != "retry_of" {
			metadata[k] = v
		}
	}
	accepted, err := c.Enqueue(ctx, payload, WithLane(t.Lane), WithModel(t.Model), WithMetadata(metadata), WithIdempotencyKey("retry of "+id))
	if err != nil {
		return accepted, err
	}
	return accepted, c.cfg.Store.Delete(ctx, DeadKey(c.cfg.Tenant, id))
}
