package fsstore_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/fsstore"
	"github.com/stretchr/testify/require"
)

// asNobody runs f with the file access of an unprivileged user. Root may open every
// folder, so this thread switches to the user id of "nobody".
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, syscall.Setfsuid(65534))
	defer func() { require.NoError(t, syscall.Setfsuid(0)) }()
	f()
}

func TestAFolderThatRefusesAccessIsNotEmpty(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bucket")
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), "a/b", strings.NewReader("x"), ""))
	require.NoError(t, os.Chmod(dir, 0))
	defer os.Chmod(dir, 0o700) //nolint:errcheck // the test's folder is removed anyway
	errs := map[string]error{}
	asNobody(t, func() {
		errs["put"] = s.Put(t.Context(), "a/c", strings.NewReader("x"), "")
		errs["create"] = s.Create(t.Context(), "a/c", strings.NewReader("x"), "")
		_, errs["get"] = s.Get(t.Context(), "a/b")
		_, errs["head"] = s.Head(t.Context(), "a/b")
		errs["delete"] = s.Delete(t.Context(), "a/b")
		for _, errs["list"] = range s.List(t.Context(), "", "") {
			break
		}
		for _, errs["list below"] = range s.List(t.Context(), "a/", "") {
			break
		}
	})
	require.Len(t, errs, 7)
	for name, err := range errs {
		require.ErrorIs(t, err, storage.ErrDenied, name)
		require.NotErrorIs(t, err, storage.ErrNotFound, name)
	}
}

// A folder in the bucket that denies access must not look empty. Nor may its keys look
// taken.
func TestAFolderOfTheBucketThatRefusesAccessIsNotEmpty(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bucket")
	s, err := fsstore.Open(dir)
	require.NoError(t, err)
	for _, key := range []string{"a/x/1", "b/1"} {
		require.NoError(t, s.Put(t.Context(), key, strings.NewReader("x"), ""))
	}
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755))
		for _, name := range []string{"", ".writing", "a", "a/x", "b", "b/1"} {
			require.NoError(t, os.Chown(filepath.Join(dir, name), 65534, 65534))
		}
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "a", "x"), 0o300)) // writable, but not listable
	require.NoError(t, os.Chmod(filepath.Join(dir, "b"), 0o500))      // listable, but not writable
	var listed []error
	var head, put, create error
	asNobody(t, func() {
		_, head = s.Head(t.Context(), "b/1")
		for _, prefix := range []string{"a/x/", "a/", ""} {
			for info, err := range s.List(t.Context(), prefix, "") {
				require.Empty(t, info)
				listed = append(listed, err)
				break
			}
		}
		put = s.Put(t.Context(), "b/2", strings.NewReader("x"), "")
		create = s.Create(t.Context(), "b/2", strings.NewReader("x"), "")
	})
	require.NoError(t, head, "the bucket as such may be used")
	require.Len(t, listed, 3)
	for _, err := range listed {
		require.ErrorIs(t, err, storage.ErrDenied)
	}
	for _, err := range []error{put, create} {
		require.ErrorIs(t, err, storage.ErrDenied)
		require.ErrorIs(t, err, storage.ErrNotWritten)
		require.NotErrorIs(t, err, storage.ErrExists)
	}
}
