package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

const (
	sweptKey   = "neuronmill:files:swept" // expires when the next sweep is due
	sweepEvery = 10 * time.Minute
)

// Sweeper deletes files that have expired, uploads that never ended, and uploads that no task
// names, of all tenants.
// Any number of processes may run one.
type Sweeper struct {
	Redis redis.UniversalClient // the caller's to close, as is Store
	Store storage.Store
	Log   *slog.Logger
}

// Run sweeps until ctx ends and returns nil.
func (s *Sweeper) Run(ctx context.Context) error {
	for {
		if err := s.sweepInTurn(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("expired files stay in the bucket", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery / 2):
		}
	}
}

func (s *Sweeper) sweepInTurn(ctx context.Context) error {
	err := s.Redis.SetArgs(ctx, sweptKey, 1, redis.SetArgs{Mode: "NX", TTL: sweepEvery}).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take turns at sweeping files: %w", err)
	}
	for tenant, err := range objects.Tenants(ctx, s.Store) {
		if err != nil {
			return err
		}
		if err := (Files{s.Store, tenant}).sweep(ctx, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// mostSwept bounds the marks of a tenant that one run follows. The next run follows more.
const mostSwept = 1000

// sweep follows the marks that are due. Their order is that of their times.
func (f Files) sweep(ctx context.Context, now time.Time) error {
	prefix, followed := objects.ExpiringPrefix(f.Tenant), 0
	for info, err := range f.Store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list the files that expire: %w", err)
		}
		text, id, _ := strings.Cut(strings.TrimPrefix(info.Key, prefix), "-")
		at, err := strconv.ParseInt(text, 10, 64)
		if err != nil || at > now.Unix() || followed == mostSwept {
			return nil //nolint:nilerr // a foreign object sorts among names that are not due
		}
		followed++
		if err := f.follow(ctx, info.Key, id); err != nil {
			return err
		}
	}
	return nil
}

// follow deletes the upload or the expired file of a mark, and then the mark.
func (f Files) follow(ctx context.Context, mark, id string) error {
	if _, upload := objects.IsUpload(id); upload {
		// The list is older than the mark: a task may have been accepted since.
		if _, err := f.Store.Head(ctx, mark); errors.Is(err, storage.ErrNotFound) {
			return nil
		} else if err != nil {
			return fmt.Errorf("look at the mark of an upload: %w", err)
		}
		if err := f.Store.Delete(ctx, f.Key(id)); err != nil {
			return fmt.Errorf("delete an upload that no task names: %w", err)
		}
		return f.Store.Delete(ctx, mark)
	}
	file, err := f.read(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && file.expired() {
		err = f.remove(ctx, id)
	}
	if err == nil {
		err = f.Store.Delete(ctx, mark)
	}
	return err
}
