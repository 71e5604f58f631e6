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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/neuronmill/neuronmill/storage"
)

// Store is a folder. It is safe for concurrent use, also by several processes.
type Store struct {
	root string
}

var _ storage.Store = (*Store)(nil)

// Open creates the folder if it does not exist. It deletes unfinished files of processes
// that were killed. There is nothing to close.
func Open(dir string) (*Store, error) {
	root, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(filepath.Join(root, tempDir), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	s := &Store{root: root}
	s.removeAbandoned()
	return s, nil
}

// tempDir holds unfinished files. No key maps to it, since the file names of keys never
// begin with a dot.
const tempDir = ".writing"

const (
	abandonedAfter = 24 * time.Hour // no write pauses for longer
	abandonedMost  = 10_000         // maximum number of files checked by one Open, so that it stays quick
)

// removeAbandoned deletes files in tempDir that were not written to for a day.
func (s *Store) removeAbandoned() {
	dir, err := os.Open(filepath.Join(s.root, tempDir))
	if err != nil {
		return
	}
	defer dir.Close()
	found, _ := dir.ReadDir(abandonedMost) // the next Open checks again
	for _, f := range found {
		if info, err := f.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > abandonedAfter {
			_ = os.Remove(filepath.Join(dir.Name(), f.Name()))
		}
	}
}

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return s.write(ctx, "put", key, body, contentType, os.Rename)
}

// Create implements storage.Store. Linking to an existing name fails, so exactly one of
// several concurrent creators succeeds.
func (s *Store) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	return s.write(ctx, "create", key, body, contentType, os.Link)
}

// write fills and syncs a temporary file and moves it to its name with place. It writes
// the content type last, so that a failed write keeps the content type of the existing
// object.
func (s *Store) write(ctx context.Context, verb, key string, body io.Reader, contentType string, place func(from, to string) error) error {
	name, err := s.file(key)
	if err != nil {
		return err
	}
	notWritten := func(err error) error {
		return fmt.Errorf("%w: %w", s.explain(verb, key, err), storage.ErrNotWritten)
	}
	temp, err := s.temporary(&reader{ctx, body})
	if err != nil {
		return notWritten(err)
	}
	defer os.Remove(temp)
	own := "" // the file with the content type, if the extension implies another one
	if contentType != "" && contentType != mime.TypeByExtension(path.Ext(name)) {
		if own, err = s.temporary(strings.NewReader(contentType)); err != nil {
			return notWritten(err)
		}
		defer os.Remove(own)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return notWritten(err)
	}
	if err := place(temp, name); err != nil {
		if errors.Is(err, fs.ErrExist) {
			if there, missing := os.Stat(name); missing == nil && there.IsDir() {
				return notWritten(errors.New("other objects are below this name"))
			}
			return fmt.Errorf("%s %s: %w", verb, key, storage.ErrExists)
		}
		return notWritten(err)
	}
	if err := placeType(own, name+typeSuffix); err != nil {
		return s.explain(verb, key, err)
	}
	if err := syncDir(filepath.Dir(name)); err != nil {
		return s.explain(verb, key, err)
	}
	return nil
}

// temporary writes a file in tempDir that survives a power failure, and returns its name.
func (s *Store) temporary(body io.Reader) (name string, err error) {
	f, err := os.CreateTemp(filepath.Join(s.root, tempDir), "put-*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, body)
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// placeType moves the file with an object's content type to its name. Without such a file
// it deletes that of the previous object.
func placeType(own, name string) error {
	if own != "" {
		return os.Rename(own, name)
	}
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// reader stops when its context ends.
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
		return nil, s.explainMissing("get", key, err)
	}
	if stat, err := f.Stat(); err != nil || stat.IsDir() {
		f.Close()
		return nil, s.explainMissing("get", key, cmp.Or(err, fs.ErrNotExist))
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
		return storage.Info{}, s.explainMissing("head", key, err)
	}
	contentType := mime.TypeByExtension(path.Ext(name))
	if own, err := os.ReadFile(name + typeSuffix); err == nil {
		contentType = string(own)
	}
	return storage.Info{Key: key, Size: stat.Size(), ContentType: contentType, Modified: stat.ModTime(), ETag: etag(stat)}, nil
}

// etag identifies the content of a file by its size and the time of its last change. The
// contents of large files are too expensive to hash in a listing.
func etag(stat fs.FileInfo) string {
	return strconv.FormatInt(stat.Size(), 36) + "-" + strconv.FormatInt(stat.ModTime().UnixNano(), 36)
}

// explain adds the operation and the matching sentinel of package storage to an error.
func (s *Store) explain(verb, key string, err error) error {
	if isMissing(err) {
		err = cmp.Or(s.bucketMissing(), err)
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: %w", storage.ErrDenied, err)
	}
	return fmt.Errorf("%s %s: %w", verb, key, err)
}

// explainMissing does the same for operations in which a missing file means a missing
// object.
func (s *Store) explainMissing(verb, key string, err error) error {
	err = s.explain(verb, key, err)
	if isMissing(err) {
		return fmt.Errorf("%s %s: %w", verb, key, storage.ErrNotFound)
	}
	return err
}

func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// bucketMissing returns an error if the folder is no longer a bucket, otherwise nil.
func (s *Store) bucketMissing() error {
	_, err := os.Stat(filepath.Join(s.root, tempDir))
	switch {
	case err == nil:
		return nil
	case isMissing(err):
		return fmt.Errorf("%w: the folder %s is gone: mount or restore it, and start again", storage.ErrNoBucket, s.root)
	}
	return err
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
	// The type is deleted first: after the object is deleted, a new one may use the key.
	for _, f := range []string{name + typeSuffix, name} {
		err := os.Remove(f)
		if err == nil || errors.Is(err, syscall.ENOTEMPTY) { // a folder of objects below the key
			continue
		}
		if err := s.explainMissing("delete", key, err); !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return nil
}

// file returns the file name of an object.
func (s *Store) file(key string) (string, error) {
	if err := storage.CheckKey(key); err != nil {
		return "", err
	}
	segments := strings.Split(key, "/")
	for i, segment := range segments {
		segments[i] = escape(segment)
		if len(segments[i])+len(typeSuffix) > 255 {
			return "", fmt.Errorf("%w: a segment is too long for a file name", storage.ErrInvalidKey)
		}
	}
	return filepath.Join(s.root, filepath.Join(segments...)), nil
}
