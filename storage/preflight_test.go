package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/stretchr/testify/require"
)

// altered is a Memory whose Create and Delete a test replaces.
type altered struct {
	*storage.Memory
	create func(ctx context.Context, key string, body io.Reader, contentType string) error
	remove func(ctx context.Context, key string) error
}

func (s altered) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	if s.create != nil {
		return s.create(ctx, key, body, contentType)
	}
	return s.Memory.Create(ctx, key, body, contentType)
}

func (s altered) Delete(ctx context.Context, key string) error {
	if s.remove != nil {
		return s.remove(ctx, key)
	}
	return s.Memory.Delete(ctx, key)
}

func objects(t *testing.T, s storage.Store) (keys []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), "", "") {
		require.NoError(t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

func TestPreflightLeavesNothingBehind(t *testing.T) {
	s := storage.NewMemory()
	for range 2 {
		require.NoError(t, storage.Preflight(t.Context(), s))
	}
	require.Empty(t, objects(t, s))
}

func TestPreflightNoticesABucketThatIgnoresTheCondition(t *testing.T) {
	s := storage.NewMemory()
	err := storage.Preflight(t.Context(), altered{Memory: s, create: s.Put})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "If-None-Match")
	require.Empty(t, objects(t, s))
}

func TestPreflightNoticesABucketThatRefusesEveryCreate(t *testing.T) {
	taken := func(context.Context, string, io.Reader, string) error {
		return fmt.Errorf("put: %w", storage.ErrExists)
	}
	err := storage.Preflight(t.Context(), altered{Memory: storage.NewMemory(), create: taken})
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestPreflightPassesOnWhatTheBucketSays(t *testing.T) {
	for _, want := range []error{storage.ErrNoBucket, storage.ErrDenied, errors.ErrUnsupported} {
		refuses := func(context.Context, string, io.Reader, string) error { return want }
		require.ErrorIs(t, storage.Preflight(t.Context(), altered{Memory: storage.NewMemory(), create: refuses}), want)
	}
}

func TestPreflightLeavesTheQuestionOpenWhenTheSecondCreateFails(t *testing.T) {
	s := storage.NewMemory()
	n := 0
	err := storage.Preflight(t.Context(), altered{Memory: s, create: func(ctx context.Context, key string, body io.Reader, contentType string) error {
		if n++; n == 2 {
			return errors.New("503")
		}
		return s.Create(ctx, key, body, contentType)
	}})
	require.ErrorContains(t, err, "503")
	require.NotErrorIs(t, err, errors.ErrUnsupported)
	require.Empty(t, objects(t, s))
}

func TestPreflightIgnoresARemovalThatFails(t *testing.T) {
	fails := func(context.Context, string) error { return errors.New("403") }
	require.NoError(t, storage.Preflight(t.Context(), altered{Memory: storage.NewMemory(), remove: fails}))
}

func TestDeleteManyReportsWhatMayRemain(t *testing.T) {
	s := storage.NewMemory()
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("k/%02d", i))
		require.NoError(t, s.Put(t.Context(), keys[i], strings.NewReader(""), ""))
	}
	why := errors.New("stuck")
	err := storage.DeleteMany(t.Context(), altered{Memory: s, remove: func(ctx context.Context, key string) error {
		if key == "k/07" || key == "k/08" {
			return why
		}
		return s.Delete(ctx, key)
	}}, keys)
	failed, ok := errors.AsType[*storage.DeleteError](err)
	require.True(t, ok)
	require.ElementsMatch(t, []string{"k/07", "k/08"}, failed.Keys)
	require.ErrorIs(t, err, why)
	require.EqualError(t, err, "2 of 40 objects were not deleted, the first: stuck")
	require.Equal(t, []string{"k/07", "k/08"}, objects(t, s))
}

func TestDeleteManyRemovesNothingWhenAKeyIsInvalid(t *testing.T) {
	s := storage.NewMemory()
	require.NoError(t, s.Put(t.Context(), "k", strings.NewReader(""), ""))
	require.ErrorIs(t, storage.DeleteMany(t.Context(), s, []string{"k", "../k"}), storage.ErrInvalidKey)
	require.Equal(t, []string{"k"}, objects(t, s))
}

func TestDeleteManyGivesUpOnAStoreThatIsGone(t *testing.T) {
	var asked atomic.Int32
	var keys []string
	for i := range 5000 {
		keys = append(keys, fmt.Sprintf("k/%d", i))
	}
	err := storage.DeleteMany(t.Context(), altered{Memory: storage.NewMemory(), remove: func(context.Context, string) error {
		asked.Add(1)
		return storage.ErrNoBucket
	}}, keys)
	require.ErrorIs(t, err, storage.ErrNoBucket)
	failed, ok := errors.AsType[*storage.DeleteError](err)
	require.True(t, ok)
	require.ElementsMatch(t, keys, failed.Keys, "what was not tried may remain too")
	require.Less(t, asked.Load(), int32(64))
}
