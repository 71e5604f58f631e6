package batch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// Service drives the batches that were handed to the workers. Any number of processes may
// run one: a lease in Redis gives each batch to one of them.
type Service struct {
	Redis     redis.UniversalClient // the caller's to close, as is Store
	Store     storage.Store
	Log       *slog.Logger
	KeepTasks bool // see Config
	// Prepare makes a batch that was handed to the workers before it exists. It returns an
	// error that matches ErrRefused if there is nothing to run. nil means that there are no
	// such batches.
	Prepare func(ctx context.Context, b *Batches, id string) (*Batch, error)
	// Ended is called after the end of a round, again if it fails; may be nil.
	Ended func(ctx context.Context, b *Batches, d *Batch, e *End) error

	mu      sync.Mutex
	driving map[string]bool
}

const (
	// batchesAtOnce is the most batches that one process drives. Others wait for another
	// process, or their turn.
	batchesAtOnce = 8
	serviceEvery  = 3 * time.Second
	patience      = time.Minute // until the log says that a process cannot look for batches
	// listEvery is how often one process compares the set in Redis with the bucket.
	listEvery = 5 * time.Minute
)

// ErrRefused: the batch will never have lines to run.
var ErrRefused = errors.New("the batch was refused")

// Run drives batches until ctx ends and returns nil. Their tasks stay in the queue.
func (s *Service) Run(ctx context.Context) error {
	s.driving = map[string]bool{}
	var drivers sync.WaitGroup
	defer drivers.Wait()
	drivers.Go(func() { s.sweep(ctx) })
	var failing time.Time // since when; zero while it works
	told := false
	for {
		switch err := s.look(ctx, &drivers); {
		case err == nil:
			failing, told = time.Time{}, false
		case failing.IsZero():
			failing = time.Now()
		case !told && ctx.Err() == nil && time.Since(failing) >= patience: // the worker itself says at once that Redis or the bucket is away
			told = true
			s.Log.Warn("cannot look for batches", "error", err, "since", failing)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(serviceEvery):
		}
	}
}

// look starts a driver for each batch that none has.
func (s *Service) look(ctx context.Context, drivers *sync.WaitGroup) error {
	if err := s.list(ctx); err != nil {
		return err
	}
	names, err := s.Redis.SMembers(ctx, activeKey).Result()
	if err != nil {
		return fmt.Errorf("read the set of batches: %w", err)
	}
	for _, name := range names {
		if !s.begin(name) {
			continue
		}
		drivers.Go(func() {
			defer s.done(name)
			s.drive(ctx, name)
		})
	}
	return nil
}

func (s *Service) begin(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driving[name] || len(s.driving) >= batchesAtOnce {
		return false
	}
	s.driving[name] = true
	return true
}

func (s *Service) done(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.driving, name)
}

// list adds the batches that only the bucket knows to the set in Redis. One process does
// that at a time, and at once after Redis was wiped.
func (s *Service) list(ctx context.Context) error {
	err := s.Redis.SetArgs(ctx, listedKey, 1, redis.SetArgs{Mode: "NX", TTL: listEvery}).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take turns at listing batches: %w", err)
	}
	err = s.listTenants(ctx)
	if err != nil {
		_ = s.Redis.Del(ctx, listedKey).Err() // another try before it expires
	}
	return err
}

func (s *Service) listTenants(ctx context.Context) error {
	for after := ""; ; {
		tenant := ""
		for info, err := range s.Store.List(ctx, "", after) {
			if err != nil {
				return fmt.Errorf("list the tenants: %w", err)
			}
			tenant, _, _ = strings.Cut(info.Key, "/")
			break
		}
		if tenant == "" {
			return nil
		}
		after = tenant + "0" // the character after "/"
		for id, err := range s.of(tenant).pending(ctx) {
			if err != nil {
				return err
			}
			if err := s.Redis.SAdd(ctx, activeKey, tenant+"/"+id).Err(); err != nil {
				return fmt.Errorf("add a batch to the set: %w", err)
			}
		}
	}
}

// of returns the batches of a tenant. Models were checked when a batch was accepted.
func (s *Service) of(tenant string) *Batches {
	return New(Config{
		Client: tasks.NewClient(tasks.Config{Redis: s.Redis, Store: s.Store, Tenant: tenant, AllowUnknownModel: true}),
		Store:  s.Store, Redis: s.Redis, Tenant: tenant, Log: s.Log, KeepTasks: s.KeepTasks,
	})
}

// drive drives one batch and removes it from the pending ones after its end.
func (s *Service) drive(ctx context.Context, name string) {
	tenant, id, _ := strings.Cut(name, "/")
	b := s.of(tenant)
	var o DriveOptions
	if s.Prepare != nil {
		o.Prepare = func(ctx context.Context, id string) (*Batch, error) { return s.Prepare(ctx, b, id) }
	}
	if s.Ended != nil {
		o.Ended = func(e *End) error { return s.ended(ctx, b, id, e) }
	}
	end, err := b.Drive(ctx, id, o)
	switch {
	case ctx.Err() != nil || errors.Is(err, ErrDriven):
		return
	case errors.Is(err, ErrRefused):
		s.Log.Info("a batch is not run", "batch", id, "reason", err)
	case errors.Is(err, ErrNotFound):
		s.Log.Warn("a pending batch is not in the bucket", "batch", id)
	case errors.Is(err, errLeaseLost):
		s.Log.Info("another process drives the batch", "batch", id)
		return
	case err != nil:
		s.Log.Error("a batch could not be driven", "batch", id, "error", err)
		return // the next look tries again
	default:
		s.Log.Info("batch ended", "batch", id, "status", end.Status, "completed", end.Completed, "failed", end.Failed, "neurons", end.Neurons)
	}
	if err := b.unhand(ctx, id, end); err != nil {
		s.Log.Warn("an ended batch is still pending", "batch", id, "error", err)
	}
}

func (s *Service) ended(ctx context.Context, b *Batches, id string, e *End) error {
	d, err := b.Get(ctx, id)
	if err != nil {
		return err
	}
	return s.Ended(ctx, b, d, e)
}

// unhand removes the marks of Hand, unless the batch has another round. The end is nil for
// a batch that does not exist.
func (b *Batches) unhand(ctx context.Context, id string, end *End) error {
	if err := b.Store.Delete(ctx, b.pendingKey(id)); err != nil {
		return fmt.Errorf("delete the mark of the batch: %w", err)
	}
	if end != nil { // a retry that came meanwhile has marked the batch again
		_, end, err := b.lastRound(ctx, id)
		if err != nil || end == nil {
			return errors.Join(err, b.Hand(ctx, id))
		}
	}
	if err := b.Redis.SRem(ctx, activeKey, b.Tenant+"/"+id).Err(); err != nil {
		return fmt.Errorf("take the batch out of the set: %w", err)
	}
	return nil
}
