package fsstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/storage"
)

// List implements storage.Store. It reads one folder at a time.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		s.walk(ctx, s.root, "", prefix, after, yield)
	}
}

// entry is one object, or the objects below one folder, in the order of their keys.
type entry struct {
	key string // of the object; what the keys below a folder begin with, "/" included
	dir bool
	fs.DirEntry
}

// walk yields what lies in dir, whose keys begin with base; false when it is to stop.
func (s *Store) walk(ctx context.Context, dir, base, prefix, after string, yield func(storage.Info, error) bool) bool {
	entries, err := read(dir, base)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		yield(storage.Info{}, fmt.Errorf("list %s: %w", prefix, err))
		return false
	}
	for _, e := range entries {
		if e.dir {
			// Skip folders whose keys cannot match, or all lie before the start.
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
			continue // deleted while we looked
		}
		if err != nil {
			yield(storage.Info{}, fmt.Errorf("list %s: %w", prefix, err))
			return false
		}
		if !yield(storage.Info{Key: e.key, Size: stat.Size(), Modified: stat.ModTime()}, nil) {
			return false
		}
	}
	return true
}

func read(dir, base string) ([]entry, error) {
	found, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
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
			continue // not ours
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
