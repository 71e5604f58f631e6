package usage

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// Rebuilt is the outcome of a Rebuild.
type Rebuilt struct {
	Before, After Sum // of the account
	Results       int // results that were read
	Damaged       int // results that could not be read
}

// BatchCost is the cost of tasks of a batch whose results may be deleted.
type BatchCost struct {
	Day    string // in UTC
	Model  string // empty for several
	Origin tasks.Origin
	Sum    Sum
}

// BatchCosts yields what the bucket has of the costs of a tenant's batches, from objects that
// were written at a time or later. holds says of a result's origin whether an object has the
// cost of that task too.
type BatchCosts func(ctx context.Context, tenant string, since time.Time, yield func(costs []BatchCost, holds func(tasks.Origin) bool)) error

const (
	readOnce = 16        // results read in parallel
	readPage = 500       // results held in memory
	skew     = time.Hour // by which the clocks of workers and bucket may differ
)

// Rebuild counts what the bucket has of the tasks that ended on a day, and corrects the day's
// sums by the difference: results, and the costs of batches, whose results are deleted. It
// reads each result that was written since the day began. Tasks that end
// meanwhile stay counted. What was deleted from the bucket is not counted any more. progress
// may be nil.
func (l *Ledger) Rebuild(ctx context.Context, store storage.Store, batches BatchCosts, date string, progress func(Rebuilt)) (Rebuilt, error) {
	begin, err := time.ParseInLocation(time.DateOnly, date, time.UTC)
	if err != nil {
		return Rebuilt{}, fmt.Errorf("rebuild the usage: %q is not a day such as 2026-11-27", date)
	}
	r := &rebuild{ledger: l, store: store, batches: batches, date: date, since: begin.Add(-skew), until: time.Now(), progress: progress, tenants: map[string]*Day{}}
	if r.before, err = l.hashes(ctx, date); err != nil {
		return r.Rebuilt, err
	}
	for tenant, err := range objects.Tenants(ctx, store) {
		if err == nil {
			err = r.tenant(ctx, tenant)
		}
		if err != nil {
			return r.Rebuilt, err
		}
	}
	return r.Rebuilt, r.correct(ctx)
}

// rebuild is a Rebuild that runs.
type rebuild struct {
	Rebuilt
	ledger   *Ledger
	store    storage.Store
	batches  BatchCosts
	date     string
	since    time.Time // no earlier object is of the day
	until    time.Time // a task that ended later is counted by its worker
	progress func(Rebuilt)
	before   map[string]map[string]int64 // fields by key, when it began
	tenants  map[string]*Day
}

// tenant counts the tasks of a tenant. It lists the results before the batches: the cost of a
// result that is deleted in between is in its batch by then.
func (r *rebuild) tenant(ctx context.Context, tenant string) error {
	day := &Day{Date: r.date}
	chunks, err := r.results(ctx, tenant, day)
	if err != nil {
		return err
	}
	err = r.batches(ctx, tenant, r.since, func(costs []BatchCost, holds func(tasks.Origin) bool) {
		chunks = slices.DeleteFunc(chunks, func(c tasks.Result) bool { return holds(c.Origin) })
		for _, c := range costs {
			if c.Day == r.date {
				day.add(tenant, valuesOf(cmp.Or(c.Model, Other), c.Origin), c.Sum)
			}
		}
	})
	if err != nil {
		return err
	}
	for _, c := range chunks {
		r.count(day, tenant, c)
	}
	if day.Total != (Sum{}) {
		r.tenants[tenant] = day
	}
	return nil
}

func (r *rebuild) count(day *Day, tenant string, t tasks.Result) {
	if DayOf(t.FinishedAt) != r.date || t.FinishedAt.After(r.until) {
		return
	}
	day.add(tenant, valuesOf(t.Model, t.Origin), Sum{
		MicroNeurons: t.Usage.MicroNeurons(), Tasks: 1, Calls: t.Usage.Calls, Unsettled: t.Usage.Unsettled,
	})
}

// results counts the results of a tenant. It returns those of batches, whose cost may be in
// the batch too: their number is bounded by the windows of the batches that run.
func (r *rebuild) results(ctx context.Context, tenant string, day *Day) (chunks []tasks.Result, err error) {
	var page []string
	flush := func() error {
		read, err := r.read(ctx, tenant, page)
		page = page[:0]
		for _, t := range read {
			if t.Origin.Batch != "" {
				chunks = append(chunks, t)
				continue
			}
			r.count(day, tenant, t)
		}
		if r.progress != nil {
			r.progress(r.Rebuilt)
		}
		return err
	}
	prefix := tenant + "/tasks/"
	for info, err := range r.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the results: %w", err)
		}
		id, name, _ := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
		if name != "result.json" || info.Modified.Before(r.since) {
			continue
		}
		if page = append(page, id); len(page) == readPage {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return chunks, flush()
}

// read reads results, without their outputs.
func (r *rebuild) read(ctx context.Context, tenant string, ids []string) ([]tasks.Result, error) {
	all := make([]*tasks.Result, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readOnce)
	for i, id := range ids {
		g.Go(func() error {
			result, err := readResult(ctx, r.store, objects.ResultKey(tenant, id))
			all[i] = result
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var read []tasks.Result
	for _, result := range all {
		r.Results++
		if result == nil {
			r.Damaged++
			continue
		}
		read = append(read, *result)
	}
	return read, nil
}

// readResult reads a result; nil when it was removed meanwhile or is damaged.
func readResult(ctx context.Context, store storage.Store, key string) (*tasks.Result, error) {
	body, err := store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer body.Close()
	document, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	var r tasks.Result
	if json.Unmarshal(document, &r) != nil {
		return nil, nil
	}
	r.Output, r.Artefacts = nil, nil
	return &r, nil
}

// hashes returns the fields of all hashes of a day by their keys.
func (l *Ledger) hashes(ctx context.Context, date string) (map[string]map[string]int64, error) {
	day, err := l.Account(ctx, date)
	if err != nil {
		return nil, err
	}
	keys := []string{accountKey(date)}
	for tenant := range day.By[ByTenant] {
		keys = append(keys, tenantKey(date, tenant))
	}
	all := map[string]map[string]int64{}
	for _, key := range keys {
		fields, err := l.Redis.HGetAll(ctx, key).Result()
		if err != nil {
			return nil, fmt.Errorf("read the usage of %s: %w", date, err)
		}
		all[key] = map[string]int64{}
		for field, text := range fields {
			var n int64
			if _, err := fmt.Sscan(text, &n); err == nil {
				all[key][field] = n
			}
		}
	}
	return all, nil
}

// correct writes the differences between the counts of the bucket and those in Redis.
func (r *rebuild) correct(ctx context.Context) error {
	r.Before = sumOf(r.before[accountKey(r.date)], total)
	wanted := r.fields()
	r.After = sumOf(wanted[accountKey(r.date)], total)
	keys, args := []string{countedKey(r.date)}, []any{"rebuild " + rand.Text(), r.until.UnixMilli(), int(KeptFor.Seconds())}
	for _, key := range slices.Sorted(maps.Keys(union(wanted, r.before))) {
		var changes []any
		for field := range union(wanted[key], r.before[key]) {
			if change := wanted[key][field] - r.before[key][field]; change != 0 {
				changes = append(changes, field, change)
			}
		}
		if len(changes) > 0 {
			keys = append(keys, key)
			args = append(append(args, len(changes)/2), changes...)
		}
	}
	if len(keys) == 1 {
		return nil
	}
	if err := correctScript.Run(ctx, r.ledger.Redis, keys, args...).Err(); err != nil {
		return fmt.Errorf("correct the usage of %s: %w", r.date, err)
	}
	return nil
}

func union[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return all
}

// fields returns the right values of the hashes, by key and field.
func (r *rebuild) fields() map[string]map[string]int64 {
	account := &Day{}
	for tenant, day := range r.tenants {
		account.add(tenant, nil, day.Total)
	}
	account.fold(r.ledger.most(), r.before[accountKey(r.date)])
	others := &Day{}
	all := map[string]map[string]int64{}
	for tenant, day := range r.tenants {
		delete(day.By, ByTenant)
		if _, own := account.By[ByTenant][tenant]; !own {
			for by, values := range day.By {
				for value, s := range values {
					others.addTo(by, value, s)
				}
			}
			continue
		}
		key := tenantKey(r.date, tenant)
		day.fold(r.ledger.most(), r.before[key])
		all[key] = day.encode(false)
	}
	others.fold(r.ledger.most(), r.before[tenantKey(r.date, Other)])
	if len(others.By) > 0 {
		all[tenantKey(r.date, Other)] = others.encode(false)
	}
	all[accountKey(r.date)] = account.encode(true)
	return all
}

// fold leaves each dimension the most values, those that Redis has first, and sums the others.
func (d *Day) fold(most int, had map[string]int64) {
	for by, values := range d.By {
		rows := d.Rows(by)
		known := func(r Row) bool { return r.Value == Other || had["t "+string(by)+" "+r.Value] > 0 }
		first := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return !known(r) })
		for i, row := range append(first, slices.DeleteFunc(rows, known)...) {
			if i >= most && row.Value != Other {
				delete(values, row.Value)
				d.addTo(by, Other, row.Sum)
			}
		}
	}
}

// encode returns the fields of the hash of a day.
func (d *Day) encode(withTotal bool) map[string]int64 {
	fields := map[string]int64{}
	put := func(name string, s Sum) {
		fields["n "+name], fields["t "+name], fields["c "+name] = s.MicroNeurons, int64(s.Tasks), int64(s.Calls)
		if s.Unsettled > 0 {
			fields["u "+name] = int64(s.Unsettled)
		}
	}
	if withTotal && d.Total != (Sum{}) {
		put(total, d.Total)
	}
	for by, values := range d.By {
		for value, s := range values {
			put(string(by)+" "+value, s)
			if value != Other {
				fields["s "+string(by)]++
			}
		}
	}
	return fields
}

// sumOf reads the sum of a name from the fields of a hash.
func sumOf(fields map[string]int64, name string) Sum {
	return Sum{fields["n "+name], int(fields["t "+name]), int(fields["c "+name]), int(fields["u "+name])}
}
