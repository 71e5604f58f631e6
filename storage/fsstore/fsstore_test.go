package fsstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
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

	require.NoError(t, s.Create(t.Context(), "a/b.json", strings.NewReader("1"), "application/x-own"))
	require.ErrorIs(t, s.Create(t.Context(), "a/b.json", strings.NewReader("2"), "application/x-other"), storage.ErrExists)
	left, err = os.ReadDir(filepath.Join(dir, ".writing"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAnOldHalfWrittenFileIsRemovedWhenTheFolderIsOpened(t *testing.T) {
	dir := t.TempDir()
	_, err := fsstore.Open(dir)
	require.NoError(t, err)
	written := func(name string, age time.Duration) string {
		name = filepath.Join(dir, ".writing", name)
		require.NoError(t, os.WriteFile(name, []byte("half"), 0o600))
		require.NoError(t, os.Chtimes(name, time.Time{}, time.Now().Add(-age)))
		return name
	}
	old, fresh := written("put-1", 25*time.Hour), written("put-2", 23*time.Hour)
	_, err = fsstore.Open(dir)
	require.NoError(t, err)
	require.NoFileExists(t, old)
	require.FileExists(t, fresh, "its writer may live")
}

func TestAFolderThatIsGoneIsAMissingBucket(t *testing.T) {
	for name, remove := range map[string]func(dir string) error{
		"removed": os.RemoveAll,
		"not mounted": func(dir string) error { // the folder of the mount exists and is empty
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "bucket")
			s, err := fsstore.Open(dir)
			require.NoError(t, err)
			require.NoError(t, s.Put(t.Context(), "a/b/there", strings.NewReader("x"), ""))
			require.NoError(t, remove(dir))
			storagetest.Refuses(t, s, storage.ErrNoBucket)
		})
	}
}

func TestAListingReadsOnlyTheFolderOfItsPrefix(t *testing.T) {
	dir := t.TempDir()
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), "default/tasks/t_1/result.json", strings.NewReader("{}"), ""))
	for i := range 2000 {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "default/tasks", fmt.Sprintf("o_%d", i)), 0o700))
	}
	allocations := testing.AllocsPerRun(3, func() {
		for info, err := range s.List(t.Context(), "default/tasks/t_1/", "") {
			require.NoError(t, err)
			require.Equal(t, "default/tasks/t_1/result.json", info.Key)
		}
	})
	require.Less(t, allocations, 200.0, "each entry of a folder that is read needs some")
}

func TestASegmentIsAsLongAsAFileNameWithItsType(t *testing.T) {
	s, err := fsstore.Open(t.TempDir())
	require.NoError(t, err)
	put := func(n int) error {
		return s.Create(t.Context(), strings.Repeat("k", n), strings.NewReader("x"), "application/x-own")
	}
	require.NoError(t, put(249))
	require.ErrorIs(t, put(250), storage.ErrInvalidKey)
}

func TestFilesOfOthersAreNotListed(t *testing.T) {
	dir := t.TempDir()
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), "a/x.json", strings.NewReader("{}"), "application/x-own"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "50%"), nil, 0o600)) // not a name of an object
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".writing", "put-1"), nil, 0o600))
	var keys []string
	for info, err := range s.List(t.Context(), "", "") {
		require.NoError(t, err)
		keys = append(keys, info.Key)
	}
	require.Equal(t, []string{"a/x.json"}, keys)
}

func TestObjectsAreForTheirOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), "a/b.txt", strings.NewReader("x"), "text/plain"))
	stat, err := os.Stat(filepath.Join(dir, "a", "b.txt"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), stat.Mode().Perm())
	for _, folder := range []string{"a", ".writing"} {
		stat, err := os.Stat(filepath.Join(dir, folder))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), stat.Mode().Perm(), folder)
	}
}

// The names are a wire form: objects stored by an earlier version must be found.
func TestObjectsAreFilesUnderTheirKeys(t *testing.T) {
	dir := t.TempDir()
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	for key, name := range map[string]string{
		"default/tasks/t_1/result.json": "default/tasks/t_1/result.json",
		"azAZ09-_.@+=,":                 "azAZ09-_.@+=,",
		".hidden/..x/a.":                "%2Ehidden/%2E.x/a.",
		"a b%/ä:*?<>|\"\\~":             "a%20b%25/%C3%A4%3A%2A%3F%3C%3E%7C%22%5C%7E",
	} {
		require.NoError(t, s.Put(t.Context(), key, strings.NewReader(key), ""))
		body, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, key, string(body))
	}
}

func TestATypeThatTheExtensionTellsNeedsNoFile(t *testing.T) {
	dir := t.TempDir()
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	require.NoError(t, s.Create(t.Context(), "a/x.json", strings.NewReader("{}"), "application/json"))
	require.NoError(t, s.Put(t.Context(), "a/y.json", strings.NewReader("{}"), ""))
	files, err := os.ReadDir(filepath.Join(dir, "a"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	require.NoError(t, s.Put(t.Context(), "a/y.json", strings.NewReader("{}"), "application/x-own"))
	require.FileExists(t, filepath.Join(dir, "a", "y.json%.type"))
}

func TestAnObjectThatGoesWhileItIsListedIsLeftOut(t *testing.T) {
	s, err := fsstore.Open(t.TempDir())
	require.NoError(t, err)
	for _, key := range []string{"a/1", "a/2", "a/3"} {
		require.NoError(t, s.Put(t.Context(), key, strings.NewReader("x"), ""))
	}
	var keys []string
	for info, err := range s.List(t.Context(), "a/", "") {
		require.NoError(t, err)
		keys = append(keys, info.Key)
		require.NoError(t, s.Delete(t.Context(), "a/2"))
	}
	require.Equal(t, []string{"a/1", "a/3"}, keys)
}

func TestAFolderCannotBeBelowAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := fsstore.Open(filepath.Join(file, "bucket"))
	require.ErrorContains(t, err, "open the store in "+file)
}

func TestAnObjectAndOthersBelowItsNameExcludeEachOther(t *testing.T) {
	s, err := fsstore.Open(t.TempDir())
	require.NoError(t, err)
	put := func(key string) error { return s.Put(t.Context(), key, strings.NewReader(key), "") }
	create := func(key string) error { return s.Create(t.Context(), key, strings.NewReader(key), "") }
	require.NoError(t, put("a/b"))
	for name, err := range map[string]error{"put above": put("a"), "put below": put("a/b/c"), "create above": create("a"), "create below": create("a/b/c")} {
		require.ErrorIs(t, err, storage.ErrNotWritten, name)
		for _, other := range []error{storage.ErrExists, storage.ErrNotFound, storage.ErrDenied, storage.ErrNoBucket} {
			require.NotErrorIs(t, err, other, name)
		}
	}
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
	realtest.Long(t)
	s, err := fsstore.Open(t.TempDir())
	require.NoError(t, err)
	storagetest.Flat(t, s)
}
