// Package files keeps uploaded files and the outputs of batches in the bucket, as OpenAI's
// Files API shows them. It knows no HTTP.
//
// Objects of a tenant:
//
//	files/file-<id>                     the content
//	files/index/<inverted id>.json      the description; the file exists as long as it does
//	files/expiring/<Unix time>-<id>     makes Sweeper look at the file at that time
//	files/<UUID>[.ext]                  an upload for a task, see objects.NewUploadKey
package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
)

// File describes a file.
type File struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Purpose   string    `json:"purpose"`
	Bytes     int64     `json:"bytes"`
	SHA256    string    `json:"sha256"` // of the content, in hex
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero means never

	until time.Time // of the mark that Create left
}

// The purposes that package openaibatch looks at.
const (
	Batch       = "batch"
	BatchOutput = "batch_output"
)

// ErrNotFound: there is no file with the id, or it has expired.
var ErrNotFound = errors.New("file not found")

const idPrefix = "file-"

var idForm = regexp.MustCompile(`^file-[0-9a-f]{32}$`)

// NewID returns a random id. Ids of later files sort after those of earlier ones.
func NewID() string {
	return idPrefix + strings.ReplaceAll(uuid.Must(uuid.NewV7()).String(), "-", "")
}

// DerivedID returns the id of a file that a program makes at a time: the same parts give
// the same id.
func DerivedID(at time.Time, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	id := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())<<16)[:6]
	return idPrefix + hex.EncodeToString(append(id, sum[:10]...))
}

// Files are the files of a tenant.
type Files struct {
	Store  storage.Store
	Tenant string
}

// Key returns the object key of a file's content.
func (f Files) Key(id string) string { return f.Tenant + "/files/" + id }

func (f Files) index() string { return f.Tenant + "/files/index/" }

func (f Files) indexKey(id string) string {
	return f.index() + objects.Inverted(strings.TrimPrefix(id, idPrefix)) + ".json"
}

func (f Files) markKey(at time.Time, id string) string { return objects.ExpiryMark(f.Tenant, id, at) }

// Create stores a file. ID, Name, Purpose, CreatedAt and ExpiresAt are the caller's; the
// rest follows from the content. After an error there is no file, but the returned value
// may have to be discarded. It streams: memory use
// does not depend on the size.
func (f Files) Create(ctx context.Context, file File, content io.Reader) (File, error) {
	file.until = time.Now().Add(objects.UploadTime)
	if err := f.mark(ctx, file.until, file.ID); err != nil {
		return file, err
	}
	sum := sha256.New()
	counted := &counter{Reader: io.TeeReader(content, sum)}
	if err := f.Store.Put(ctx, f.Key(file.ID), counted, "application/octet-stream"); err != nil {
		return file, fmt.Errorf("store the content of %s: %w", file.ID, err)
	}
	file.Bytes, file.SHA256 = counted.n, hex.EncodeToString(sum.Sum(nil))
	return file, nil
}

// Publish makes a file that Create stored visible.
func (f Files) Publish(ctx context.Context, file File) error {
	if !file.ExpiresAt.IsZero() {
		if err := f.mark(ctx, file.ExpiresAt, file.ID); err != nil {
			return err
		}
	}
	document, err := json.Marshal(file)
	if err != nil {
		return fmt.Errorf("encode the description of %s: %w", file.ID, err)
	}
	if err := f.Store.Put(ctx, f.indexKey(file.ID), bytes.NewReader(document), "application/json"); err != nil {
		return fmt.Errorf("store the description of %s: %w", file.ID, err)
	}
	return nil
}

// Discard deletes a file that Create returned and that is not published. The content goes
// first, so that a failure in between leaves the rest to Sweeper.
func (f Files) Discard(ctx context.Context, file File) error {
	for _, key := range []string{f.Key(file.ID), f.markKey(file.until, file.ID)} {
		if err := f.Store.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete %s: %w", file.ID, err)
		}
	}
	return nil
}

func (f Files) mark(ctx context.Context, at time.Time, id string) error {
	if err := f.Store.Put(ctx, f.markKey(at, id), strings.NewReader(id), "text/plain"); err != nil {
		return fmt.Errorf("mark %s to expire: %w", id, err)
	}
	return nil
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// Get returns a file, or ErrNotFound.
func (f Files) Get(ctx context.Context, id string) (*File, error) {
	if !idForm.MatchString(id) {
		return nil, ErrNotFound
	}
	file, err := f.read(ctx, id)
	if err == nil && file.expired() {
		return nil, ErrNotFound
	}
	return file, err
}

func (f *File) expired() bool { return !f.ExpiresAt.IsZero() && !time.Now().Before(f.ExpiresAt) }

func (f Files) read(ctx context.Context, id string) (*File, error) {
	body, err := f.Store.Get(ctx, f.indexKey(id))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read the description of %s: %w", id, err)
	}
	defer body.Close()
	var file File
	if err := json.NewDecoder(body).Decode(&file); err != nil {
		return nil, fmt.Errorf("decode the description of %s: %w", id, err)
	}
	return &file, nil
}

// Delete deletes a file, or returns ErrNotFound. The content goes first, so that a failure
// in between leaves a file that can be deleted again.
func (f Files) Delete(ctx context.Context, id string) error {
	if _, err := f.Get(ctx, id); err != nil {
		return err
	}
	return f.remove(ctx, id)
}

func (f Files) remove(ctx context.Context, id string) error {
	for _, key := range []string{f.Key(id), f.indexKey(id)} {
		if err := f.Store.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete %s: %w", id, err)
		}
	}
	return nil
}

// ListOptions choose files. After is the id of the last file of the page before.
type ListOptions struct {
	After   string
	Limit   int    // at least 1
	Oldest  bool   // oldest first; newest first otherwise
	Purpose string // empty means all
}

// List returns a page of files, and whether more follow. It returns ErrNotFound when After
// is no file.
func (f Files) List(ctx context.Context, o ListOptions) ([]*File, bool, error) {
	before := ""
	if o.After != "" {
		if _, err := f.Get(ctx, o.After); err != nil {
			return nil, false, err
		}
		before = strings.TrimPrefix(o.After, idPrefix)
	}
	ids := objects.NewestFirst(ctx, f.Store, f.index(), before)
	if o.Oldest {
		ids = f.oldestFirst(ctx, before)
	}
	return objects.Page(ctx, ids, o.Limit, func(ctx context.Context, id string) (*File, error) {
		file, err := f.read(ctx, idPrefix+id)
		if errors.Is(err, ErrNotFound) || err == nil && (file.expired() || o.Purpose != "" && file.Purpose != o.Purpose) {
			return nil, nil //nolint:nilnil // Page leaves it out
		}
		return file, err
	})
}

// oldestFirst yields the ids after one in ascending order. It has all of them in memory.
func (f Files) oldestFirst(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var ids []string
		for id, err := range objects.NewestFirst(ctx, f.Store, f.index(), "") {
			if err != nil {
				yield("", err)
				return
			}
			if id == after {
				break
			}
			ids = append(ids, id)
		}
		for _, id := range slices.Backward(ids) {
			if !yield(id, nil) {
				return
			}
		}
	}
}
