package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/redis/go-redis/v9"
)

// A batch with Keep has a mark at the end of each round, whose name begins with the time at
// which its objects are deleted, so that a sweep reads those that are due only:
//
//	<tenant>/batches/expiring/<Unix seconds, 11 digits>-<id>
const (
	sweptKey   = "neuronmill:batches:swept" // expires when the buckets are to be swept again
	sweepEvery = time.Hour
	// sweepMost bounds the objects of one kind that a sweep deletes, for each tenant; the rest
	// waits for the next one.
	sweepMost = 100_000
	// sweepPage is how many objects are deleted at a time.
	sweepPage = 1000
)

func (b *Batches) expiring() string { return b.root() + "expiring/" }

// markExpiry notes when the objects of a batch are deleted whose round is about to end.
func (d *driver) markExpiry(ctx context.Context, e *End) error {
	if d.batch.Keep == 0 {
		return nil
	}
	at := e.EndedAt.Add(time.Duration(d.batch.Keep))
	return d.create(ctx, fmt.Sprintf("%s%011d-%s", d.expiring(), at.Unix(), d.batch.ID), mark{ID: d.batch.ID})
}

// sweep deletes expired batches and unused indexes until ctx ends, one process at a time.
func (s *Service) sweep(ctx context.Context) {
	for {
		if err := s.sweepInTurn(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("batches that have expired stay in the bucket", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery / 2):
		}
	}
}

func (s *Service) sweepInTurn(ctx context.Context) error {
	err := s.Redis.SetArgs(ctx, sweptKey, 1, redis.SetArgs{Mode: "NX", TTL: sweepEvery}).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take turns at sweeping batches: %w", err)
	}
	for tenant, err := range objects.Tenants(ctx, s.Store) {
		if err == nil {
			err = s.of(tenant).sweep(ctx, time.Now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep deletes the batches that are due, and the indexes that no batch will read.
func (b *Batches) sweep(ctx context.Context, now time.Time) error {
	for info, err := range b.Store.List(ctx, b.expiring(), "") {
		if err != nil {
			return fmt.Errorf("list the batches that expire: %w", err)
		}
		text, id, _ := strings.Cut(strings.TrimPrefix(info.Key, b.expiring()), "-")
		at, err := strconv.ParseInt(text, 10, 64)
		if err != nil || at > now.Unix() {
			break // a foreign object sorts among names that are not due
		}
		if err := b.expire(ctx, info.Key, id, time.Unix(at, 0)); err != nil {
			return err
		}
		if err := b.Store.Delete(ctx, info.Key); err != nil {
			return fmt.Errorf("delete %s: %w", info.Key, err)
		}
	}
	return b.sweepIndexes(ctx, now)
}

// mark is the mark of a batch that is to be deleted.
type mark struct {
	ID       string `json:"id"`
	Deleting bool   `json:"deleting,omitempty"` // some of its objects may be gone
}

// expire follows a mark that was due at a time. A batch that runs again, or ended later, has a
// later mark, or will have one.
func (b *Batches) expire(ctx context.Context, key, id string, due time.Time) error {
	var m mark
	if err := b.read(ctx, key, &m); err != nil {
		return err
	}
	d, err := b.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	last, end, err := b.lastRound(ctx, id)
	switch {
	case err != nil:
		return err
	case m.Deleting && d.CreatedAt.After(due):
		return nil // another batch of the same file
	case !m.Deleting && (end == nil || end.EndedAt.Add(time.Duration(d.Keep)).Unix() > due.Unix()):
		return nil
	}
	document, err := json.Marshal(mark{id, true})
	if err != nil {
		return fmt.Errorf("encode a mark: %w", err)
	}
	if err := b.Store.Put(ctx, key, bytes.NewReader(document), "application/json"); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return b.remove(ctx, d, last.Number)
}

// remove deletes the objects of a batch: its indexes first, since the rounds name them, and the
// definition last.
func (b *Batches) remove(ctx context.Context, d *Batch, rounds int) error {
	for n := 0; n <= rounds; n++ {
		began := d.CreatedAt
		if n > 0 {
			var r round
			if err := b.read(ctx, b.roundKey(d.ID, n), &r); err != nil {
				return err
			}
			began = r.CreatedAt
		}
		for _, root := range []string{b.indexRoot(), b.sampleRoot()} {
			if err := b.deleteBelow(ctx, path.Dir(indexKey(root, began, d.ID, n, 0))+"/", ""); err != nil {
				return err
			}
		}
	}
	definition := b.key(d.ID, "batch.json")
	if err := b.deleteBelow(ctx, b.key(d.ID, ""), definition); err != nil {
		return err
	}
	if err := b.Store.Delete(ctx, definition); err != nil {
		return fmt.Errorf("delete %s: %w", definition, err)
	}
	b.Log.Info("a batch has expired, and its objects are deleted", "batch", d.ID, "keep", time.Duration(d.Keep))
	return nil
}

// deleteBelow deletes the objects of a folder but one.
func (b *Batches) deleteBelow(ctx context.Context, folder, but string) error {
	var keys []string
	flush := func() error {
		err := storage.DeleteMany(ctx, b.Store, keys)
		keys = keys[:0]
		if err != nil {
			return fmt.Errorf("delete what is below %s: %w", folder, err)
		}
		return nil
	}
	for info, err := range b.Store.List(ctx, folder, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", folder, err)
		}
		if info.Key == but {
			continue
		}
		if keys = append(keys, info.Key); len(keys) == sweepPage {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// sweepIndexes deletes the indexes of samples whose results are too old to be taken, and the
// oldest ones beyond those that a batch reads.
func (b *Batches) sweepIndexes(ctx context.Context, now time.Time) error {
	err := b.deleteFirst(ctx, b.sampleRoot(), func(_ int, info storage.Info) bool { return now.Sub(info.Modified) > sampleFor+day })
	if err != nil {
		return err
	}
	count := 0
	for _, err := range b.Store.List(ctx, b.indexRoot(), "") {
		if err != nil {
			return fmt.Errorf("list the results of batches: %w", err)
		}
		count++
	}
	if count <= mostIndexes {
		return nil
	}
	return b.deleteFirst(ctx, b.indexRoot(), func(n int, _ storage.Info) bool { return n < count-mostIndexes })
}

// deleteFirst deletes the objects of a folder for which which returns true, given their number
// in the folder. It looks at sweepMost objects.
func (b *Batches) deleteFirst(ctx context.Context, folder string, which func(n int, info storage.Info) bool) error {
	var keys []string
	n := 0
	for info, err := range b.Store.List(ctx, folder, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", folder, err)
		}
		if n == sweepMost {
			break
		}
		if which(n, info) {
			keys = append(keys, info.Key)
		}
		n++
	}
	if err := storage.DeleteMany(ctx, b.Store, keys); err != nil {
		return fmt.Errorf("delete what is below %s: %w", folder, err)
	}
	return nil
}
