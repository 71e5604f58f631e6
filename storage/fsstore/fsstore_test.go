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
	stat, err := os.Stat(filepath.Join(dir, "a.d", "b.txt"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), stat.Mode().Perm())
}
