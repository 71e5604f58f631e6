// Package index finds tasks that have ended. Redis has a sorted set for each tenant, by the
// time of the end, with bounds in age and number. The bucket stays the truth: the index may
// miss a task whose worker died before it wrote the entry, and Rebuild restores it.
package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/observe"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// The default bounds of a tenant's index. An entry takes about 200 bytes in Redis.
const (
	DefaultKeep = 7 * 24 * time.Hour
	DefaultMost = 100_000
)

// Key returns the Redis key of a tenant's index: a sorted set by the time of the end in
// milliseconds. A member is "ID STATUS KIND LANE MODEL CODE", with "-" for an empty part.
func Key(tenant string) string { return "neuronmill:ended:{" + tenant + "}" }

// Entry is an ended task.
type Entry struct {
	ID         string       `json:"id"`
	Status     tasks.Status `json:"status"`
	Kind       tasks.Kind   `json:"kind"`
	Lane       tasks.Lane   `json:"lane,omitempty"` // empty if the entry was rebuilt from the bucket
	Model      string       `json:"model"`
	Code       string       `json:"code,omitempty"` // error code of a failed task
	FinishedAt time.Time    `json:"finished_at"`    // to the millisecond
}

func (e Entry) member() string {
	parts := []string{e.ID, string(e.Status), string(e.Kind), string(e.Lane), e.Model, e.Code}
	for i, p := range parts {
		parts[i] = cmp.Or(strings.Join(strings.Fields(p), "_"), "-")
	}
	return strings.Join(parts, " ")
}

func parse(z redis.Z) (Entry, bool) {
	member, _ := z.Member.(string)
	parts := strings.Split(member, " ")
	if len(parts) != 6 {
		return Entry{}, false // of a later version
	}
	for i, p := range parts {
		if p == "-" {
			parts[i] = ""
		}
	}
	return Entry{
		ID: parts[0], Status: tasks.Status(parts[1]), Kind: tasks.Kind(parts[2]), Lane: tasks.Lane(parts[3]),
		Model: parts[4], Code: parts[5], FinishedAt: time.UnixMilli(int64(z.Score)).UTC(),
	}, true
}

// Index reads and writes the entries of all tenants. It is safe for concurrent use.
type Index struct {
	Redis redis.UniversalClient // the caller closes it
	Keep  time.Duration         // maximum age of an entry; 0 means DefaultKeep
	Most  int                   // maximum number of entries of a tenant; 0 means DefaultMost

	mu      sync.Mutex
	trimmed map[string]trimming // by tenant
}

// trimming is the time of this process' last trim of a tenant's index, and the number of
// entries that it added since.
type trimming struct {
	at    time.Time
	added int
}

const (
	trimEvery   = time.Minute
	trimAfter   = 100  // entries
	trimTenants = 1000 // most tenants whose last trimming is remembered
	perCommand  = 500  // entries written or read by one command
)

func (x *Index) keep() time.Duration { return cmp.Or(x.Keep, DefaultKeep) }
func (x *Index) most() int           { return cmp.Or(x.Most, DefaultMost) }

// Add writes entries of a tenant. An entry that is already there is written again without
// effect. Now and then it removes what exceeds the bounds; a fleet of n processes may
// exceed the number by n times 100.
func (x *Index) Add(ctx context.Context, tenant string, entries ...Entry) error {
	key := Key(tenant)
	pipe := x.Redis.Pipeline()
	for len(entries) > 0 {
		some := entries[:min(len(entries), perCommand)]
		entries = entries[len(some):]
		members := make([]redis.Z, len(some))
		for i, e := range some {
			members[i] = redis.Z{Score: float64(e.FinishedAt.UnixMilli()), Member: e.member()}
		}
		pipe.ZAdd(ctx, key, members...)
		if x.mustTrim(tenant, len(some)) {
			oldest := time.Now().Add(-x.keep()).UnixMilli()
			pipe.ZRemRangeByScore(ctx, key, "-inf", fmt.Sprintf("(%d", oldest))
			pipe.ZRemRangeByRank(ctx, key, 0, int64(-x.most()-1))
			pipe.PExpire(ctx, key, x.keep()+time.Hour)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("write the index of ended tasks: %w", err)
	}
	return nil
}

// mustTrim reports whether a write of n entries must trim the index. The first write of a
// process does, and so an index always has an expiry.
func (x *Index) mustTrim(tenant string, n int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	last := x.trimmed[tenant]
	last.added += n
	due := last.added >= trimAfter || time.Since(last.at) >= trimEvery
	if due {
		last = trimming{at: time.Now()}
	}
	if x.trimmed == nil || len(x.trimmed) >= trimTenants {
		x.trimmed = map[string]trimming{}
	}
	x.trimmed[tenant] = last
	return due
}

// Filter selects entries. Empty fields select all.
type Filter struct {
	Status tasks.Status
	Kind   tasks.Kind
	Lane   tasks.Lane
	Model  string
	Code   string
	Since  time.Time // ended at this time or later
	Before time.Time // ended before this time
	After  Cursor    // continues a page; zero begins with the newest
	Limit  int       // most entries of a page; 0 means 100
}

func (f Filter) matches(e Entry) bool {
	return (f.Status == "" || f.Status == e.Status) && (f.Kind == "" || f.Kind == e.Kind) && (f.Lane == "" || f.Lane == e.Lane) &&
		(f.Model == "" || f.Model == e.Model) && (f.Code == "" || f.Code == e.Code)
}

// Cursor is a position in the index: the last entry that was read. Entries that end later
// do not move it.
type Cursor struct {
	At time.Time // to the millisecond
	ID string
}

// IsZero reports whether the cursor is the beginning, or that there is no next page.
func (c Cursor) IsZero() bool { return c.ID == "" }

// String encodes the cursor; ParseCursor reads it.
func (c Cursor) String() string {
	if c.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d.%s", c.At.UnixMilli(), c.ID)
}

// ErrCursor reports a text that is no cursor.
var ErrCursor = errors.New("the cursor is not valid: it must be the one of the last page")

// ParseCursor decodes what String wrote. The empty text is the zero cursor.
func ParseCursor(text string) (Cursor, error) {
	if text == "" {
		return Cursor{}, nil
	}
	var ms int64
	at, id, ok := strings.Cut(text, ".")
	if _, err := fmt.Sscanf(at, "%d", &ms); err != nil || !ok || id == "" || len(text) > 200 || fmt.Sprint(ms) != at || ms < 0 {
		return Cursor{}, ErrCursor
	}
	return Cursor{time.UnixMilli(ms).UTC(), id}, nil
}

// Page is an answer of Find.
type Page struct {
	Entries []Entry
	// Next continues after this page; zero when the index has no more. A page may have
	// fewer entries than the limit, even none, and still have a next one.
	Next Cursor
}

// scanMost is how many entries one call of Find looks at.
const scanMost = 5000

// Find returns entries of a tenant, newest first. It looks at no more than 5,000 entries,
// so a rare match may need several pages.
func (x *Index) Find(ctx context.Context, tenant string, f Filter) (Page, error) {
	limit := cmp.Or(f.Limit, 100)
	oldest := time.Now().Add(-x.keep())
	if f.Since.After(oldest) {
		oldest = f.Since
	}
	by := redis.ZRangeBy{Max: "+inf", Min: fmt.Sprint(oldest.UnixMilli()), Count: perCommand}
	if !f.Before.IsZero() {
		by.Max = fmt.Sprintf("(%d", f.Before.UnixMilli())
	}
	if !f.After.IsZero() && (f.Before.IsZero() || f.After.At.Before(f.Before)) {
		by.Max = fmt.Sprint(f.After.At.UnixMilli())
	}
	page := Page{Entries: []Entry{}}
	for seen := 0; ; by.Offset += by.Count {
		members, err := x.Redis.ZRevRangeByScoreWithScores(ctx, Key(tenant), &by).Result()
		if err != nil {
			return Page{}, fmt.Errorf("read the index of ended tasks: %w", err)
		}
		for _, z := range members {
			e, ok := parse(z)
			if !ok || f.After.passed(e) {
				continue
			}
			if len(page.Entries) == limit || seen == scanMost {
				return page, nil
			}
			seen++
			page.Next = Cursor{e.FinishedAt, e.ID}
			if f.matches(e) {
				page.Entries = append(page.Entries, e)
			}
		}
		if len(members) < int(by.Count) {
			page.Next = Cursor{}
			return page, nil
		}
	}
}

// passed reports whether a page before this cursor had the entry.
func (c Cursor) passed(e Entry) bool {
	return !c.IsZero() && cmp.Or(e.FinishedAt.Compare(c.At), strings.Compare(e.ID, c.ID)) >= 0
}

// retryAfter are the pauses between the tries to write entries.
var retryAfter = []time.Duration{time.Second, 5 * time.Second}

// Observer returns an observer that indexes the tasks that finish, and a function that
// writes the rest and ends it. A failure to write is logged and fails no task.
func (x *Index) Observer(log *slog.Logger) (observer tasks.Observer, stop func()) {
	q := observe.NewQueue("index of ended tasks", observe.Size, log, func(ctx context.Context, events []tasks.Event) {
		byTenant := map[string][]Entry{}
		for _, e := range events {
			byTenant[e.Tenant] = append(byTenant[e.Tenant], Entry{
				ID: e.ID, Status: tasks.Status(e.Outcome), Kind: e.Kind, Lane: e.Lane, Model: e.Model, Code: e.Code, FinishedAt: e.Time,
			})
		}
		for tenant, entries := range byTenant {
			if err := x.write(ctx, tenant, entries); err != nil {
				log.Debug("ended tasks are not in the index: neuronmill recover --index adds them", "tasks", len(entries), "error", err)
			}
		}
	})
	return func(e tasks.Event) {
		if e.Type == tasks.EventFinished && e.Outcome != "" {
			q.Add(e)
		}
	}, func() { q.Close(3 * time.Second) }
}

// write adds entries, and tries again after a failure.
func (x *Index) write(ctx context.Context, tenant string, entries []Entry) error {
	for try := 0; ; try++ {
		trying, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := x.Add(trying, tenant, entries...)
		cancel()
		if err == nil || try == len(retryAfter) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryAfter[try]):
		}
	}
}
