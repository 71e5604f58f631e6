package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"golang.org/x/sync/errgroup"
)

// DeadLetter is an entry in the list of dead letters. The failed task and its result stay under
// the task's own keys; the entry makes listing cheap in a large bucket.
type DeadLetter struct {
	ID        string    `json:"id"`
	Kind      Kind      `json:"kind"`
	Model     string    `json:"model"`
	Error     TaskError `json:"error"`
	CreatedAt time.Time `json:"created_at"`
	FailedAt  time.Time `json:"failed_at"`
}

// deadLetterOf returns the dead-letter entry of a failed result.
func deadLetterOf(r Result) DeadLetter {
	return DeadLetter{ID: r.ID, Kind: r.Kind, Model: r.Model, Error: *r.Error, CreatedAt: r.CreatedAt, FailedAt: r.FinishedAt}
}

// ListFailure writes the dead-letter entry of a failed task. It also copies the task
// beside its result, so that a person can run it again. If again is false, it skips a
// task that was listed before, because a person may have dropped that entry. It never
// lists a cancelled task.
func ListFailure(ctx context.Context, s storage.Store, tenant string, r Result, task func() ([]byte, error), again bool) error {
	key := objects.FailedTaskKey(tenant, r.ID)
	if !again {
		if _, err := s.Head(ctx, key); !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	document, err := task()
	if err != nil {
		return fmt.Errorf("encode the failed task: %w", err)
	}
	if r.Error.Code != CodeCancelled {
		entry, err := json.Marshal(deadLetterOf(r))
		if err != nil {
			return fmt.Errorf("encode the dead letter: %w", err)
		}
		if err := s.Put(ctx, objects.DeadKey(tenant, r.ID), bytes.NewReader(entry), "application/json"); err != nil {
			return fmt.Errorf("list the failure: %w", err)
		}
	}
	// The entry is written last: it marks the failure as listed.
	if err := s.Put(ctx, key, bytes.NewReader(document), "application/json"); err != nil {
		return fmt.Errorf("keep the failed task: %w", err)
	}
	return nil
}

// unlist removes a completed task from the dead letters. A second run of the task failed
// after the first had completed, and may have crashed before it noticed.
func unlist(ctx context.Context, s storage.Store, tenant, id string) error {
	first, err := StoredResult(ctx, s, tenant, id)
	if err != nil || first.Status == Failed {
		return err
	}
	if err := s.Delete(ctx, objects.DeadKey(tenant, id)); err != nil {
		return err
	}
	return s.Delete(ctx, objects.FailedTaskKey(tenant, id)) // deleted last: it marks that cleanup is needed
}

// DeadLetterFilter selects entries for Client.DeadLetters.
type DeadLetterFilter struct {
	Kind  Kind   // empty means all
	Code  string // empty means all
	Limit int    // maximum number of entries; 0 means no limit
	After string // task id after which the list begins; empty means at its beginning
}

// deadOnce is the number of entries read in parallel.
const deadOnce = 32

// DeadLetters lists dead letters in the order of their task ids, which is roughly the order of
// acceptance. It requires a Store.
func (c *Client) DeadLetters(ctx context.Context, f DeadLetterFilter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		given := 0
		for keys, err := range c.deadKeys(ctx, f.After) {
			var found []DeadLetter
			if err == nil {
				found, err = c.readDead(ctx, keys)
			}
			if err != nil {
				yield(DeadLetter{}, err)
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

// deadKeys yields the keys of the list in pages, those after the key of an id.
func (c *Client) deadKeys(ctx context.Context, afterID string) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		if c.invalid != nil {
			yield(nil, c.invalid)
			return
		}
		if c.cfg.Store == nil {
			yield(nil, errors.New("the list of failures lies in the bucket: the client needs a Store"))
			return
		}
		var keys []string
		after := ""
		if afterID != "" {
			after = objects.DeadKey(c.cfg.Tenant, afterID)
		}
		for info, err := range c.cfg.Store.List(ctx, objects.DeadPrefix(c.cfg.Tenant), after) {
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

// readDead reads entries in parallel. It omits entries that were dropped meanwhile and
// marks damaged ones.
func (c *Client) readDead(ctx context.Context, keys []string) ([]DeadLetter, error) {
	found := make([]DeadLetter, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	for i, key := range keys {
		g.Go(func() error {
			err := readJSON(ctx, c.cfg.Store, key, &found[i])
			id := strings.TrimSuffix(path.Base(key), ".json")
			switch {
			case errors.Is(err, storage.ErrNotFound):
				found[i] = DeadLetter{}
				return nil
			case errors.Is(err, errDocument) || err == nil && found[i].ID != id:
				found[i] = DeadLetter{ID: id, Error: TaskError{Code: CodeEntryDamaged, Message: "the entry cannot be read; the result can"}}
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read the failures: %w", err)
	}
	return slices.DeleteFunc(found, func(d DeadLetter) bool { return d.ID == "" }), nil
}

// Drop removes a failed task from the dead letters, together with the data for running it
// again. The result is final and stays. It returns ErrNotFound if the task is not listed.
func (c *Client) Drop(ctx context.Context, id string) error {
	if c.invalid != nil {
		return c.invalid
	}
	if c.cfg.Store == nil {
		return errors.New("the list of failures lies in the bucket: the client needs a Store")
	}
	key := objects.DeadKey(c.cfg.Tenant, id)
	if _, err := c.cfg.Store.Head(ctx, key); errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
		return ErrNotFound
	} else if err != nil {
		return err
	}
	// The input is deleted first, because the task names its key.
	task := objects.FailedTaskKey(c.cfg.Tenant, id)
	var t Task
	err := readJSON(ctx, c.cfg.Store, task, &t)
	if err != nil && !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, errDocument) {
		return err
	}
	if t.ownsInput() {
		if err := c.cfg.Store.Delete(ctx, t.InputKey); err != nil {
			return err
		}
	}
	if err := c.cfg.Store.Delete(ctx, task); err != nil {
		return err
	}
	return c.cfg.Store.Delete(ctx, key)
}

// FailedTask reads a failed task, as it was accepted, from the bucket. The error wraps
// storage.ErrNotFound if the bucket does not have it.
func FailedTask(ctx context.Context, s storage.Store, tenant, id string) (Task, error) {
	document, err := objects.Read(ctx, s, objects.FailedTaskKey(tenant, id))
	if errors.Is(err, storage.ErrNotFound) { // the worker has not listed it yet
		document, err = readRecord(ctx, s, tenant, id)
	}
	if err != nil {
		return Task{}, err
	}
	return Decode(document)
}

// Retry runs a failed task again as a new task, since a result is final. The metadata of
// the new task has retry_of. Another Retry of the same task returns the same new task. It
// requires a Store, which has the failed task beside its result.
func (c *Client) Retry(ctx context.Context, id string) (Receipt, error) {
	if c.invalid != nil {
		return Receipt{}, c.invalid
	}
	if c.cfg.Store == nil {
		return Receipt{}, errors.New("retry needs a Store: the failed task lies in the bucket")
	}
	r, err := c.storedResult(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	if r.Status != Failed {
		return Receipt{}, fmt.Errorf("retry %s: it completed: %w", id, ErrEnded)
	}
	t, err := FailedTask(ctx, c.cfg.Store, c.cfg.Tenant, id)
	if err != nil {
		return Receipt{}, fmt.Errorf("retry %s: %w", id, err)
	}
	payload, err := t.Input(ctx, c.cfg.Store)
	if err != nil {
		return Receipt{}, fmt.Errorf("retry %s: %w", id, err)
	}
	metadata := map[string]string{"retry_of": id}
	for k, v := range t.Metadata {
		if len(metadata) < 16 && k != "retry_of" {
			metadata[k] = v
		}
	}
	accepted, err := c.Enqueue(ctx, payload, WithLane(t.Lane), WithModel(t.Model), WithMetadata(metadata), WithWebhook(t.Webhook), WithMaxNeurons(t.MaxNeurons), WithSpend(t.Spend), WithAPIKey(t.Origin.Key), retryOf(id))
	if err != nil {
		return accepted, err
	}
	return accepted, c.cfg.Store.Delete(ctx, objects.DeadKey(c.cfg.Tenant, id))
}
