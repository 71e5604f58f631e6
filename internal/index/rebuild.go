package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// Rebuilt counts the results that a Rebuild has looked at.
type Rebuilt struct {
	Results int // within the index' age
	Added   int // entries that the index lacked
	Old     int // older than the index keeps
	Damaged int // could not be read as a result
}

const (
	readOnce   = 16  // results read in parallel
	resultPage = 500 // results in one write
)

// Rebuild adds the results in the bucket that the index lacks. It reads each result within
// the index' age, so it costs one request for each; the workers may run meanwhile. The
// progress function is called from time to time; it may be nil.
func (x *Index) Rebuild(ctx context.Context, store storage.Store, progress func(Rebuilt)) (Rebuilt, error) {
	var n Rebuilt
	for tenant, err := range objects.Tenants(ctx, store) {
		if err != nil {
			return n, err
		}
		if err := x.rebuildTenant(ctx, store, tenant, progress, &n); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (x *Index) rebuildTenant(ctx context.Context, store storage.Store, tenant string, progress func(Rebuilt), n *Rebuilt) error {
	known, err := x.known(ctx, tenant)
	if err != nil {
		return err
	}
	oldest := time.Now().Add(-x.keep())
	var page []string
	flush := func() error {
		err := x.addStored(ctx, store, tenant, page, n)
		page = page[:0]
		if progress != nil {
			progress(*n)
		}
		return err
	}
	prefix := tenant + "/tasks/"
	for info, err := range store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list the results: %w", err)
		}
		id, name, _ := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
		switch {
		case name != "result.json":
			continue
		case info.Modified.Before(oldest):
			n.Old++
			continue
		}
		if n.Results++; known[id] {
			continue
		}
		if page = append(page, id); len(page) == resultPage {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// known returns the ids in a tenant's index.
func (x *Index) known(ctx context.Context, tenant string) (map[string]bool, error) {
	known := map[string]bool{}
	by := redis.ZRangeBy{Min: "-inf", Max: "+inf", Count: 5000}
	for ; ; by.Offset += by.Count {
		members, err := x.Redis.ZRangeByScore(ctx, Key(tenant), &by).Result()
		if err != nil {
			return nil, fmt.Errorf("read the index of ended tasks: %w", err)
		}
		for _, m := range members {
			id, _, _ := strings.Cut(m, " ")
			known[id] = true
		}
		if len(members) < int(by.Count) {
			return known, nil
		}
	}
}

// addStored reads results and writes their entries.
func (x *Index) addStored(ctx context.Context, store storage.Store, tenant string, ids []string, n *Rebuilt) error {
	if len(ids) == 0 {
		return nil
	}
	results := make([]*tasks.Result, len(ids))
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(readOnce)
	for i, id := range ids {
		g.Go(func() error {
			r, err := readResult(reading, store, objects.ResultKey(tenant, id))
			results[i] = r
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var entries []Entry
	for i, r := range results {
		if r == nil || r.ID != ids[i] {
			n.Damaged++
			continue
		}
		e := Entry{ID: r.ID, Status: r.Status, Kind: r.Kind, Model: r.Model, FinishedAt: r.FinishedAt}
		if r.Error != nil {
			e.Code = r.Error.Code
		}
		entries = append(entries, e)
	}
	n.Added += len(entries)
	return x.Add(ctx, tenant, entries...)
}

// readResult reads a result; nil when it was removed meanwhile or is damaged.
func readResult(ctx context.Context, store storage.Store, key string) (*tasks.Result, error) {
	document, err := objects.Read(ctx, store, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r tasks.Result
	if json.Unmarshal(document, &r) != nil {
		return nil, nil
	}
	return &r, nil
}
