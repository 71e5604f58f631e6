package storage

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ManyDeleter is a Store that deletes many objects with few requests.
type ManyDeleter interface {
	// DeleteMany behaves as the function DeleteMany describes.
	DeleteMany(ctx context.Context, keys []string) error
}

// DeleteMany deletes many objects with as few requests as the store allows. Missing
// objects are not an error. It continues after a failure and gives up after 16 failures.
// A *DeleteError lists every object that may remain. DeleteMany reports an invalid key
// before it deletes anything. The order of deletion is undefined, so callers cannot rely
// on it.
func DeleteMany(ctx context.Context, s Store, keys []string) error {
	if many, ok := s.(ManyDeleter); ok {
		return many.DeleteMany(ctx, keys)
	}
	return DeleteEach(ctx, s, keys)
}

// DeleteEach behaves as DeleteMany with one Delete per key, several in parallel.
func DeleteEach(ctx context.Context, s Store, keys []string) error {
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return err
		}
	}
	var (
		mu     sync.Mutex
		failed = &DeleteError{Total: len(keys)}
		group  errgroup.Group
	)
	record := func(err error, keys ...string) {
		mu.Lock()
		defer mu.Unlock()
		failed.Add(err, keys...)
	}
	tooMany := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return failed.TooMany()
	}
	group.SetLimit(deletesAtOnce)
	for i, key := range keys {
		if tooMany() {
			record(nil, keys[i:]...)
			break
		}
		group.Go(func() error {
			if err := s.Delete(ctx, key); err != nil {
				record(err, key)
			}
			return nil
		})
	}
	_ = group.Wait()
	return failed.OrNil()
}

const (
	deletesAtOnce = 16 // parallel deletes in a store that is not a ManyDeleter
	failuresMost  = 16
)

// DeleteError lists objects that DeleteMany could not delete.
type DeleteError struct {
	Keys  []string // objects that may remain
	Total int      // number of objects to delete
	Err   error    // the error of the first of them
}

// Error returns the number of objects and the first error.
func (e *DeleteError) Error() string {
	return fmt.Sprintf("%d of %d objects were not deleted, the first: %v", len(e.Keys), e.Total, e.Err)
}

// Unwrap returns the first error.
func (e *DeleteError) Unwrap() error { return e.Err }

// Add records objects that may remain, and the error.
func (e *DeleteError) Add(err error, keys ...string) {
	e.Err = cmp.Or(e.Err, err)
	e.Keys = append(e.Keys, keys...)
}

// TooMany reports whether so many deletes have failed that DeleteMany should give up.
func (e *DeleteError) TooMany() bool { return len(e.Keys) >= failuresMost }

// OrNil returns the error, or nil if nothing was recorded.
func (e *DeleteError) OrNil() error {
	if len(e.Keys) == 0 {
		return nil
	}
	return e
}
