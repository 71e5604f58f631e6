package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Preflight checks that a bucket supports create-only writes, which prevent a second
// result of a task. It creates an object under a new key twice and requires ErrExists
// from the second write. If the bucket refuses such writes or ignores their condition,
// the error is errors.ErrUnsupported. A missing bucket or refused access is ErrNoBucket
// or ErrDenied, as the store reports it. Any other error means that the check is
// inconclusive.
//
// Preflight deletes its object. It does not report a failed delete, because the leftover
// object is harmless.
func Preflight(ctx context.Context, s Store) error {
	key := DefaultTenant + "/doctor/preflight-" + rand.Text()
	err := s.Create(ctx, key, strings.NewReader("first"), "text/plain")
	if errors.Is(err, ErrExists) {
		return fmt.Errorf("check create-only writes: the bucket says that a new key is taken (If-None-Match: *): use a service that honours it: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("check create-only writes: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = s.Delete(ctx, key)
	}()
	err = s.Create(ctx, key, strings.NewReader("second"), "text/plain")
	if err == nil {
		return fmt.Errorf("check create-only writes: the bucket ignores their condition (If-None-Match: *) and lets a second write replace the first, so a task could end twice: use a service that honours it: %w", errors.ErrUnsupported)
	}
	if !errors.Is(err, ErrExists) {
		return fmt.Errorf("check create-only writes: the second create was not answered with 412: %w", err)
	}
	return nil
}
