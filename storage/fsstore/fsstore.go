// Package fsstore keeps objects in a folder, one file each. It is the bucket when
// none is set.
//
// The key "a/b.txt" is the file a/b.txt, so that people find their results. Characters
// that file systems treat unlike each other are written as %XX. What cannot be told from
// the name, the content type, stands in a ".type" file where it differs from the one the
// extension has. An object and others below its name, "a" and "a/b", cannot both exist.
package fsstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/neuronmill/neuronmill/storage"
)

// Store is a folder. It is safe for concurrent use, by several processes too.
type Store struct {
	root string
}

var _ storage.Store = (*Store)(nil)

// Open makes the folder where there is none. There is nothing to close.
func Open(dir string) (*Store, error) {
	root, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(filepath.Join(root, tempDir), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	return &Store{root: root}, nil
}

// tempDir holds files that are being written; no key leads there, since none of their
// file names begins with a dot.
const tempDir = ".writing"

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return s.write(ctx, key, body, contentType, os.Rename)
}

// Create implements storage.Store. A link onto a name that exists fails, so one of
// concurrent creators wins.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	err := s.write(ctx, key, body, contentType, os.Link)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create %s: %w", key, storage.ErrExists)
	}
	return err
}

// write fills a temporary file, syncs it and gives it its name with place.
func (s *Store) write(ctx context.Context, key string, body io.Reader, contentType string, place func(from, to string) error) (err error) {
	name, err := s.file(key)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("put %s: %w", key, err)
		}
	}()
	temp, err := os.CreateTemp(filepath.Join(s.root, tempDir), "put-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	if _, err := io.Copy(temp, &reader{ctx, body}); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := s.placeType(name, contentType); err != nil {
		return err
	}
	if err := place(temp.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// placeType writes the content type where the extension does not tell it.
func (s *Store) placeType(name, contentType string) error {
	if contentType == "" || contentType == mime.TypeByExtension(path.Ext(name)) {
		err := os.Remove(name + typeSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.WriteFile(name+typeSuffix, []byte(contentType), 0o600)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// reader ends with its context.
type reader struct {
	ctx  context.Context
	body io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.body.Read(p)
}

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	name, err := s.file(key)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, missing("get", key, err)
	}
	if stat, err := f.Stat(); err != nil || stat.IsDir() {
		f.Close()
		return nil, missing("get", key, cmp.Or(err, fs.ErrNotExist))
	}
	return f, nil
}

// Head implements storage.Store.
func (s *Store) Head(ctx context.Context, key string) (storage.Info, error) {
	name, err := s.file(key)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return storage.Info{}, err
	}
	stat, err := os.Stat(name)
	if err == nil && stat.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return storage.Info{}, missing("head", key, err)
	}
	contentType := mime.TypeByExtension(path.Ext(name))
	if own, err := os.ReadFile(name + typeSuffix); err == nil {
		contentType = string(own)
	}
	return storage.Info{Key: key, Size: stat.Size(), ContentType: contentType, Modified: stat.ModTime()}, nil
}

func missing(verb, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%s %s: %w", verb, key, storage.ErrNotFound)
	}
	return fmt.Errorf("%s %s: %w", verb, key, err)
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	name, err := s.file(key)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	for _, f := range []string{name, name + typeSuffix} {
		err := os.Remove(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, syscall.ENOTEMPTY) {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return nil
}

// file is where an object lies.
func (s *Store) file(key string) (string, error) {
	if err := storage.CheckKey(key); err != nil {
		return "", err
	}
	segments := strings.Split(key, "/")
	for i, segment := range segments {
		segments[i] = escape(segment)
		if len(segments[i]) > 250 {
			return "", fmt.Errorf("%w: a segment is too long for a file name", storage.ErrInvalidKey)
		}
	}
	return filepath.Join(s.root, filepath.Join(segments...)), nil
}
