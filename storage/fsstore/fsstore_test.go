package fsstore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/fsstore"
	"github.com/neuronmill/neuronmill/storage/storagetest"
	"github.com/stretchr/testify/require"
)

func TestAFolderIsAStore(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		s, err := fsstore.Open(t.TempDir())
		require.NoError(t, err)
		return s
	})
}

func TestNothingIsLeftOfAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	require.Error(t, s.Put(t.Context(), "a/b", storagetest.Failing(1<<20), ""))
	left, err := os.ReadDir(filepath.Join(dir, ".writing"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestObjectsAreForTheirOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), "a/b.txt", strings.NewReader("x"), "text/plain"))
	stat, err := os.Stat(filepath.Join(dir, "a", "b.txt"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), stat.Mode().Perm())
}

func TestAnObjectAndOthersBelowItsNameExcludeEachOther(t *testing.T) {
	s, err := fsstore.Open(t.TempDir())
	require.NoError(t, err)
	put := func(key string) error { return s.Put(t.Context(), key, strings.NewReader(key), "") }
	require.NoError(t, put("a/b"))
	require.Error(t, put("a"))
	require.Error(t, put("a/b/c"))
	for _, key := range []string{"a", "a/b/c"} {
		_, err = s.Get(t.Context(), key)
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = s.Head(t.Context(), key)
		require.ErrorIs(t, err, storage.ErrNotFound)
		require.NoError(t, s.Delete(t.Context(), key))
	}
	_, err = s.Head(t.Context(), "a/b")
	require.NoError(t, err)
}

func TestALargeFileIsNeverInMemory(t *testing.T) {
	s, err := fsstore.Open(t.TempDir())
	require.NoError(t, err)
	storagetest.Flat(t, s)
}
