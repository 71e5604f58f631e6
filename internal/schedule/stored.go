package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

var (
	// ErrNotFound: the tenant has no stored schedule of the name.
	ErrNotFound = errors.New("schedule not found")
	// ErrExists: the tenant has a stored schedule of the name.
	ErrExists = errors.New("there is a schedule of this name")
	// ErrTooMany: the tenant has as many stored schedules as one may have.
	ErrTooMany = fmt.Errorf("there are %d schedules, and no more are taken: remove one first", MostStored)
)

// MostStored is how many stored schedules a tenant may have.
const MostStored = 1000

// versionsKey is a hash in Redis: a tenant, and a random text that changes with its stored
// schedules.
const versionsKey = "neuronmill:schedules"

// Stored are the schedules of a tenant that the bucket keeps. Schedulers follow changes
// within seconds.
//
// A definition is created once and never changed: <tenant>/schedules/<name>.json. Whether
// the schedule is paused is in an object of its own beside it, <name>.state, so that a
// pause cannot bring back a definition that is being removed.
type Stored struct {
	StoredConfig
}

// StoredConfig has the settings of Stored. All but Runs are required, and the caller's to close.
type StoredConfig struct {
	Client *tasks.Client
	Store  storage.Store // the bucket of the client
	Redis  redis.UniversalClient
	Tenant string // that of the client; "default" when empty
	Log    *slog.Logger
	Runs   *RunCache // optional; may be shared by all tenants of the bucket
}

// NewStored returns the stored schedules of a tenant; there is nothing to close.
func NewStored(c StoredConfig) *Stored {
	if c.Tenant == "" {
		c.Tenant = objects.DefaultTenant
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Stored{c}
}

// Batches returns the batches of the tenant.
func (s *Stored) Batches() *batch.Batches {
	return batch.New(batch.Config{Client: s.Client, Store: s.Store, Redis: s.Redis, Tenant: s.Tenant, Log: s.Log})
}

// Schedule is a stored schedule.
type Schedule struct {
	Definition
	CreatedAt time.Time `json:"created_at"`
	Paused    bool      `json:"paused"`
	Last      *Run      `json:"last"` // the latest run that was due; null when there is none
	Next      time.Time `json:"next,omitzero" doc:"Absent while it is paused."`
}

// document is the object of a definition.
type document struct {
	Definition
	CreatedAt time.Time `json:"created_at"`
}

// state is the object that says whether a schedule is paused.
type state struct {
	Paused bool      `json:"paused"`
	Since  time.Time `json:"since"`
}

const (
	documentSuffix = ".json"
	stateSuffix    = ".state"
)

func storedPrefix(tenant string) string { return tenant + "/schedules/" }

func (s *Stored) key(name string) string { return storedPrefix(s.Tenant) + name + documentSuffix }

func (s *Stored) stateKey(name string) string { return storedPrefix(s.Tenant) + name + stateSuffix }

// mayName checks that a task's recording is the tenant's own.
func (s *Stored) mayName(e Entry) error {
	if e.File != nil || e.New != nil {
		return nil
	}
	payload, err := e.payload(time.Now())
	if err == nil {
		err = s.Client.Check(payload, e.options()...)
	}
	var p problems
	if p.payload(err); len(p) > 0 {
		return tasks.ValidationError(p)
	}
	return nil
}

// Add stores a schedule. It returns a tasks.ValidationError if the definition is not
// valid, and ErrExists if there is one of the name. Its first slot is the next one from
// now on.
func (s *Stored) Add(ctx context.Context, d Definition) (*Schedule, error) {
	e, err := d.Check()
	if err == nil {
		err = s.mayName(e)
	}
	if err != nil {
		return nil, err
	}
	names, err := s.names(ctx)
	switch {
	case err != nil:
		return nil, err
	case slices.Contains(names, d.Name):
		return nil, ErrExists
	case len(names) >= MostStored:
		return nil, ErrTooMany
	}
	if audio, ok := d.Payload["audio"].(map[string]any); ok {
		key, _ := audio["key"].(string)
		if err := objects.ClaimUploads(ctx, s.Store, key); err != nil {
			return nil, err
		}
	}
	added := document{d, time.Now().UTC()}
	encoded, err := json.Marshal(added)
	if err != nil {
		return nil, fmt.Errorf("encode the schedule: %w", err)
	}
	// A schedule of the name that was removed in this moment may have left its state.
	if err := s.Store.Delete(ctx, s.stateKey(d.Name)); err != nil {
		return nil, fmt.Errorf("delete %s: %w", s.stateKey(d.Name), err)
	}
	err = s.Store.Create(ctx, s.key(d.Name), bytes.NewReader(encoded), "application/json")
	if errors.Is(err, storage.ErrExists) {
		return nil, ErrExists
	}
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", s.key(d.Name), err)
	}
	s.announce(ctx)
	return s.Get(ctx, d.Name)
}

// Remove removes a schedule. Its runs stay in the bucket, and a schedule of the same name
// continues them.
func (s *Stored) Remove(ctx context.Context, name string) error {
	if _, _, err := s.read(ctx, name); err != nil {
		return err
	}
	if err := storage.DeleteMany(ctx, s.Store, []string{s.key(name), s.stateKey(name)}); err != nil {
		return fmt.Errorf("delete the schedule: %w", err)
	}
	s.announce(ctx)
	return nil
}

// Pause stops a schedule from firing. Resume lets it fire from its next slot on: slots of
// the meantime have no run.
func (s *Stored) Pause(ctx context.Context, name string) error { return s.setPaused(ctx, name, true) }

// Resume ends a pause.
func (s *Stored) Resume(ctx context.Context, name string) error { return s.setPaused(ctx, name, false) }

func (s *Stored) setPaused(ctx context.Context, name string, paused bool) error {
	_, now, err := s.read(ctx, name)
	if err != nil || now.Paused == paused {
		return err
	}
	if err := putJSON(ctx, s.Store, s.stateKey(name), state{paused, time.Now().UTC()}); err != nil {
		return err
	}
	s.announce(ctx)
	return nil
}

// RunNow fires a schedule at once, also a paused one. The slot of the run is the present
// second.
func (s *Stored) RunNow(ctx context.Context, name string) (Run, error) {
	d, _, err := s.read(ctx, name)
	if err != nil {
		return Run{}, err
	}
	e, err := d.Check()
	if err != nil {
		return Run{}, err
	}
	slot := time.Now().UTC().Truncate(time.Second)
	if slot.Second() == 0 {
		slot = slot.Add(time.Second) // slots of the clock are at full minutes
	}
	one := &dispatcher{store: s.Store, client: s.Client, batches: s.Batches(), tenant: s.Tenant, owner: uuid.NewString(), now: time.Now, log: s.Log}
	return one.dispatch(ctx, e, slot, true)
}

// Get returns a schedule with its last and its next run, or ErrNotFound.
func (s *Stored) Get(ctx context.Context, name string) (*Schedule, error) {
	found, err := s.Look(ctx, name, 1)
	if found == nil {
		return nil, err
	}
	return &found.Schedule, err
}

// Next returns the next n slots of a schedule, or of all when the name is empty. Paused
// schedules have none.
func (s *Stored) Next(ctx context.Context, name string, n int) ([]Slot, error) {
	names := []string{name}
	if name == "" {
		var err error
		if names, err = s.names(ctx); err != nil {
			return nil, err
		}
	}
	var entries []Entry
	for _, one := range names {
		d, now, err := s.read(ctx, one)
		switch {
		case errors.Is(err, ErrNotFound) && name == "":
			continue // removed meanwhile
		case err != nil:
			return nil, err
		}
		if e, err := d.Check(); err == nil && !now.Paused {
			entries = append(entries, e)
		}
	}
	return Next(entries, time.Now(), n), nil
}

// readsAtOnce is how many objects a list reads in parallel.
const readsAtOnce = 16

// List returns all schedules in the order of their names.
func (s *Stored) List(ctx context.Context) ([]*Schedule, error) {
	page, _, err := s.Page(ctx, "", 2*MostStored, 1) // adds at one time may exceed the bound
	all := make([]*Schedule, len(page))
	for i, one := range page {
		all[i] = &one.Schedule
	}
	return all, err
}

// History returns the latest runs of a schedule, newest first, at most n and at most
// KeptRuns. It finds out how runs ended that were not known to have ended.
func (s *Stored) History(ctx context.Context, name string, n int) ([]Run, error) {
	if !goodName.MatchString(name) {
		return nil, ErrNotFound
	}
	ledger := ledgerOf(s.Store, s.Tenant, name)
	refs, err := ledger.refs(ctx, min(n, KeptRuns))
	if err != nil {
		return nil, err
	}
	runs := make([]*Run, len(refs))
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(readsAtOnce)
	for i, ref := range refs {
		g.Go(func() error {
			if r, ok := s.Runs.get(ref.key); ok {
				runs[i] = &r
				return nil
			}
			r, err := ledger.read(inner, ref.key)
			if errors.Is(err, storage.ErrNotFound) {
				return nil // pruned meanwhile
			}
			if err == nil {
				r, err = ledger.settle(inner, s.Client, s.Batches(), r)
			}
			if err == nil {
				s.Runs.put(ref.key, r)
			}
			runs[i] = &r
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var found []Run
	for _, r := range runs {
		if r != nil {
			found = append(found, *r)
		}
	}
	return found, nil
}

// read reads a definition and its state.
func (s *Stored) read(ctx context.Context, name string) (d document, now state, err error) {
	if !goodName.MatchString(name) {
		return d, now, ErrNotFound
	}
	err = readJSON(ctx, s.Store, s.key(name), &d)
	if errors.Is(err, storage.ErrNotFound) {
		return d, now, ErrNotFound
	}
	if err == nil {
		err = readJSON(ctx, s.Store, s.stateKey(name), &now)
	}
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	return d, now, err
}

// names lists the names of all schedules.
func (s *Stored) names(ctx context.Context) ([]string, error) {
	var names []string
	for info, err := range s.Store.List(ctx, storedPrefix(s.Tenant), "") {
		if err != nil {
			return nil, fmt.Errorf("list the schedules: %w", err)
		}
		if name, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, storedPrefix(s.Tenant)), documentSuffix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// announce tells the schedulers that the schedules of the tenant have changed.
func (s *Stored) announce(ctx context.Context) {
	if err := s.Redis.HSet(ctx, versionsKey, s.Tenant, uuid.NewString()).Err(); err != nil {
		s.Log.Warn("schedulers are not told of the change; they find it in the bucket within minutes", "error", err, "within", listEvery)
	}
}
