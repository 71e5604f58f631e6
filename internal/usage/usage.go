// Package usage is the ledger: what tasks have cost, by UTC day, tenant, API key, model,
// batch and schedule. Workers add the cost of each task in the round trip that announces its
// end. Redis keeps the sums of 40 days. The bucket stays the truth: each result has its
// usage, and Rebuild counts the results of a day again.
package usage

import (
	"cmp"
	"context"
	_ "embed" // the scripts
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// The prices of Workers AI. The next free allocation begins at 00:00 UTC.
const (
	DollarsPerNeuron = 0.011 / 1000
	FreePerDay       = budget.FreePerDay // neurons
)

// Dimension is what usage can be summed by.
type Dimension string

// The dimensions. Every task has a tenant and a model.
const (
	ByTenant   Dimension = "tenant"
	ByKey      Dimension = "key"
	ByModel    Dimension = "model"
	ByBatch    Dimension = "batch"
	BySchedule Dimension = "schedule"
)

// Dimensions lists all dimensions.
var Dimensions = []Dimension{ByTenant, ByKey, ByModel, ByBatch, BySchedule}

// The bounds of what Redis keeps.
const (
	KeptFor     = 40 * 24 * time.Hour // after the last task of a day
	MostValues  = 200                 // see Ledger.Most
	mostValue   = 100                 // bytes of a value
	mostCounted = 10_000              // tasks that a repeated announcement cannot count twice
)

// Other is the value that has the sum of all values beyond MostValues.
const Other = "(other)"

// unknown is the model of a task that could not be decoded.
const unknown = "(unknown)"

// total names the sum over all tenants.
const total = "total"

// The keys of a day. One hash tag keeps them on one node of a cluster.
func accountKey(day string) string        { return "neuronmill:usage:{" + day + "}" }
func tenantKey(day, tenant string) string { return accountKey(day) + ":" + tenant }
func countedKey(day string) string        { return accountKey(day) + ":(counted)" }

// DayOf returns the day of a time, in UTC: "2026-11-27".
func DayOf(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// Sum is the cost of tasks.
type Sum struct {
	MicroNeurons int64 // millionths of neurons: whole numbers have exact sums
	Tasks        int   // that have ended
	Calls        int
	Unsettled    int // calls that may have been billed, at a price that is not known
}

// Neurons returns the cost in neurons.
func (s Sum) Neurons() float64 { return float64(s.MicroNeurons) / 1e6 }

// Dollars returns the list price. It does not know of the free allocation, see Billed.
func (s Sum) Dollars() float64 { return s.Neurons() * DollarsPerNeuron }

// Billed returns the price in dollars of a day of the account, beyond the free allocation.
func (s Sum) Billed() float64 { return max(s.Neurons()-FreePerDay, 0) * DollarsPerNeuron }

// Add returns the sum of both.
func (s Sum) Add(o Sum) Sum {
	return Sum{s.MicroNeurons + o.MicroNeurons, s.Tasks + o.Tasks, s.Calls + o.Calls, s.Unsettled + o.Unsettled}
}

// Day is the usage of a day.
type Day struct {
	Date  string // 2026-11-27
	Total Sum
	By    map[Dimension]map[string]Sum // by value; tasks without a batch, for example, are in no sum by batch
}

// Row is the sum of one value of a dimension.
type Row struct {
	Value string
	Sum
}

// Rows returns the sums of a dimension, the dearest first.
func (d Day) Rows(by Dimension) []Row {
	var rows []Row
	for value, sum := range d.By[by] {
		rows = append(rows, Row{value, sum})
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.MicroNeurons, a.MicroNeurons), strings.Compare(a.Value, b.Value))
	})
	return rows
}

// add adds a sum under each of the values.
func (d *Day) add(tenant string, values map[Dimension]string, s Sum) {
	d.Total = d.Total.Add(s)
	d.addTo(ByTenant, tenant, s)
	for by, value := range values {
		d.addTo(by, value, s)
	}
}

func (d *Day) addTo(by Dimension, value string, s Sum) {
	if d.By == nil {
		d.By = map[Dimension]map[string]Sum{}
	}
	if d.By[by] == nil {
		d.By[by] = map[string]Sum{}
	}
	d.By[by][value] = d.By[by][value].Add(s)
}

// Ledger reads and writes the sums.
type Ledger struct {
	Redis redis.UniversalClient // the caller closes it
	// Most bounds the values of a dimension that have sums of their own, for each tenant and
	// day; 0 means MostValues. All processes must have the same.
	Most int

	mu     sync.Mutex
	missed []entry // that Redis did not take
}

func (l *Ledger) most() int { return cmp.Or(l.Most, MostValues) }

var (
	//go:embed add.lua
	addLua string
	//go:embed correct.lua
	correctLua string

	addScript     = redis.NewScript(addLua)
	correctScript = redis.NewScript(correctLua)
)

// Add adds the cost of an ended task to the sums of the day of its end, with a pipeline whose
// caller runs it. A task that was counted lately is not counted again. done must be called
// after the pipeline has run. What Redis does not take is added again with the next tasks of
// this process.
func (l *Ledger) Add(ctx context.Context, pipe redis.Pipeliner, tenant string, r tasks.Result) (done func() error) {
	entries := append(l.takeMissed(), l.entryOf(tenant, r))
	replies := make([]*redis.Cmd, len(entries))
	for i, e := range entries {
		replies[i] = addScript.EvalSha(ctx, pipe, e.keys, e.args...)
	}
	return func() error {
		var failed error
		for i, e := range entries {
			if redis.HasErrorPrefix(replies[i].Err(), "NOSCRIPT") {
				replies[i] = addScript.Eval(ctx, l.Redis, e.keys, e.args...)
			}
			if err := replies[i].Err(); err != nil {
				failed = err
				l.miss(e)
			}
		}
		return failed
	}
}

// entry is a task as add.lua takes it.
type entry struct {
	keys []string
	args []any
}

func (l *Ledger) entryOf(tenant string, r tasks.Result) entry {
	day := DayOf(r.FinishedAt)
	e := entry{keys: []string{countedKey(day), accountKey(day), tenantKey(day, tenant), tenantKey(day, Other)}, args: []any{
		r.ID, r.FinishedAt.UnixMilli(), int(KeptFor.Seconds()), mostCounted, l.most(), tenant, Other,
		r.Usage.MicroNeurons(), r.Usage.Calls, r.Usage.Unsettled,
	}}
	for by, value := range valuesOf(r.Model, r.Origin) {
		e.args = append(e.args, string(by), value)
	}
	return e
}

// The bounds of the entries that Redis did not take.
const (
	mostMissed = 1000 // in memory; later ones are lost until a rebuild
	missedOnce = 20   // of them with one task
)

// takeMissed returns some entries that Redis did not take.
func (l *Ledger) takeMissed() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.missed), missedOnce)
	some := slices.Clone(l.missed[:n])
	l.missed = slices.Delete(l.missed, 0, n)
	return some
}

func (l *Ledger) miss(e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.missed) < mostMissed {
		l.missed = append(l.missed, e)
	}
}

// valuesOf returns the values of all dimensions but the tenant that a task has.
func valuesOf(model string, o tasks.Origin) map[Dimension]string {
	values := map[Dimension]string{ByModel: cmp.Or(model, unknown), ByKey: o.Key, ByBatch: o.Batch, BySchedule: o.Schedule}
	maps.DeleteFunc(values, func(_ Dimension, value string) bool { return value == "" })
	for by, value := range values {
		values[by] = strings.ToValidUTF8(value[:min(len(value), mostValue)], "")
	}
	return values
}

// totals returns the usage of a day over all tenants, by tenant only.
func (l *Ledger) totals(ctx context.Context, date string) (Day, error) {
	d := Day{Date: date}
	fields, err := l.Redis.HGetAll(ctx, accountKey(date)).Result()
	if err != nil {
		return d, fmt.Errorf("read the usage of %s: %w", date, err)
	}
	d.read(fields)
	return d, nil
}

// Account returns the usage of a day over all tenants. A day without tasks has zero sums.
func (l *Ledger) Account(ctx context.Context, date string) (Day, error) {
	d, err := l.totals(ctx, date)
	if err != nil {
		return d, err
	}
	for tenant := range d.By[ByTenant] {
		fields, err := l.Redis.HGetAll(ctx, tenantKey(date, tenant)).Result()
		if err != nil {
			return d, fmt.Errorf("read the usage of %s: %w", date, err)
		}
		d.read(fields)
	}
	return d, nil
}

// Tenant returns the usage of a tenant on a day. It is in no sum by tenant.
func (l *Ledger) Tenant(ctx context.Context, date, tenant string) (Day, error) {
	d := Day{Date: date}
	fields, err := l.Redis.HGetAll(ctx, tenantKey(date, tenant)).Result()
	if err != nil {
		return d, fmt.Errorf("read the usage of %s: %w", date, err)
	}
	d.read(fields)
	for _, s := range d.By[ByModel] { // every task has a model
		d.Total = d.Total.Add(s)
	}
	return d, nil
}

// read adds the fields of a hash.
func (d *Day) read(fields map[string]string) {
	for field, text := range fields {
		letter, name, _ := strings.Cut(field, " ")
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue
		}
		var s Sum
		switch letter {
		case "n":
			s.MicroNeurons = n
		case "t":
			s.Tasks = int(n)
		case "c":
			s.Calls = int(n)
		case "u":
			s.Unsettled = int(n)
		default:
			continue // the number of values
		}
		if name == total {
			d.Total = d.Total.Add(s)
			continue
		}
		by, value, _ := strings.Cut(name, " ")
		d.addTo(Dimension(by), value, s)
	}
}

// LastDays returns the dates of the last n days, today included, oldest first.
func LastDays(now time.Time, n int) []string {
	dates := make([]string, n)
	for i := range dates {
		dates[i] = DayOf(now.AddDate(0, 0, i-n+1))
	}
	return dates
}
