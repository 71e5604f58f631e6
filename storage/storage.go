package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

var (
	// ErrNotFound: the bucket exists and has no object under the key. A missing bucket is
	// ErrNoBucket instead: taken as "no result", it would cause a second paid run.
	ErrNotFound = errors.New("object not found")
	// ErrExists: Create failed because the key already has an object.
	ErrExists = errors.New("object already exists")
	// ErrInvalidKey: the key is empty, longer than 1024 bytes, not UTF-8, contains
	// control characters, or has an empty, "." or ".." segment.
	ErrInvalidKey = errors.New("invalid object key")
	// ErrNoBucket: the bucket or folder itself does not exist.
	ErrNoBucket = errors.New("bucket not found")
	// ErrDenied: the store refuses access because of wrong or missing credentials, a
	// missing permission, a wrong region or a wrong clock. A person has to fix it.
	ErrDenied = errors.New("access denied")
	// ErrNotWritten: a failed Put or Create has certainly stored nothing and will not. It
	// accompanies the error with the reason. A failed write without it may have happened,
	// for example if only the answer was lost.
	ErrNotWritten = errors.New("nothing was written")
)

// Info describes an object without its body.
type Info struct {
	Key         string
	Size        int64
	ContentType string    // empty in listings
	Modified    time.Time // by the store's clock
	// ETag changes when the object is replaced by other content. Listings and Head agree on
	// it. Empty means that the store cannot tell.
	ETag string
}

// Store stores objects by key; keys use "/" between segments. All methods are safe for
// concurrent use. A reader sees the old object or the new one, never a partial one. Every
// method reports a missing bucket as ErrNoBucket and refused access as ErrDenied, never
// as ErrNotFound. A store may also implement ManyDeleter and
// RangeGetter.
type Store interface {
	// Put writes body under key and replaces an existing object. It streams the body:
	// memory use does not depend on the size of the object.
	Put(ctx context.Context, key string, body io.Reader, contentType string) error
	// Create is a Put that fails with ErrExists if the key already has an object. Exactly
	// one of several concurrent creators succeeds, and the others do not change its
	// object. Create fails with errors.ErrUnsupported if the service refuses create-only
	// writes; Preflight detects a service that ignores the condition. Use Create for
	// documents: a body that is not an io.Seeker may be buffered in memory.
	Create(ctx context.Context, key string, body io.Reader, contentType string) error
	// Get opens an object; the caller closes it. It fails with ErrNotFound if the object
	// does not exist.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// Head describes an object. It fails with ErrNotFound if the object does not exist.
	Head(ctx context.Context, key string) (Info, error)
	// Delete deletes an object; a missing object is not an error. DeleteMany deletes
	// many.
	Delete(ctx context.Context, key string) error
	// List yields the objects whose keys begin with prefix and sort after the key after,
	// in byte order. An empty after starts at the beginning. List ends at the first
	// error.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
}
