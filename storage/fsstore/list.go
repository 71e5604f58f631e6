package fsstore

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/storage"
)

// List implements storage.Store. It starts in the folder that the prefix names, and reads
// one folder at a time.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if err := s.bucketMissing(); err != nil {
			yield(storage.Info{}, s.explain("list", prefix, err))
			return
		}
		dir, base := s.root, prefix[:strings.LastIndexByte(prefix, '/')+1]
		if base != "" {
			var err error
			if dir, err = s.file(strings.TrimSuffix(base, "/")); err != nil {
				return // no key has this prefix
			}
		}
		s.walk(ctx, dir, base, prefix, after, yield)
	}
}

// entry is one object, or the objects below one folder, sorted by key.
type entry struct {
	key string // of the object; for a folder the common prefix of its keys, with the trailing "/"
	dir bool
	fs.DirEntry
}

// walk yields the objects in dir, whose keys begin with base. It returns false if the
// caller stops.
func (s *Store) walk(ctx context.Context, dir, base, prefix, after string, yield func(storage.Info, error) bool) bool {
	err := ctx.Err()
	var entries []entry
	if err == nil {
		entries, err = read(dir, base)
	}
	if err != nil {
		yield(storage.Info{}, s.explain("list", prefix, err))
		return false
	}
	for _, e := range entries {
		if e.dir {
			// Skip folders whose keys cannot match or all sort before the start.
			if !strings.HasPrefix(e.key, prefix) && !strings.HasPrefix(prefix, e.key) ||
				after > e.key && !strings.HasPrefix(after, e.key) {
				continue
			}
			if !s.walk(ctx, filepath.Join(dir, e.Name()), e.key, prefix, after, yield) {
				return false
			}
			continue
		}
		if !strings.HasPrefix(e.key, prefix) || e.key <= after {
			continue
		}
		stat, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			yield(storage.Info{}, s.explain("list", prefix, err))
			return false
		}
		if !yield(storage.Info{Key: e.key, Size: stat.Size(), Modified: stat.ModTime(), ETag: etag(stat)}, nil) {
			return false
		}
	}
	return true
}

// read returns the entries of a folder, or none if the folder does not exist.
func read(dir, base string) ([]entry, error) {
	f, err := os.Open(dir)
	if err == nil {
		defer f.Close()
	}
	var found []fs.DirEntry
	if err == nil {
		found, err = f.ReadDir(-1)
	}
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(found))
	for _, f := range found {
		name, isDir := f.Name(), f.IsDir()
		if name == tempDir || strings.HasSuffix(name, typeSuffix) {
			continue
		}
		segment, err := unescape(name)
		if err != nil {
			continue // not an object
		}
		key := base + segment
		if isDir {
			key += "/"
		}
		entries = append(entries, entry{key, isDir, f})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries, nil
}
