package objects

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/storage"
)

// UploadTime is how long an upload stays that no task names.
const UploadTime = 24 * time.Hour

// NewUploadKey returns the object key of a new upload. Its name has the time and the
// ending, ".wav", which may be empty.
func NewUploadKey(tenant, ending string) string {
	id := uuid.Must(uuid.NewV7())
	var now [8]byte
	binary.BigEndian.PutUint64(now[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], now[2:]) // the library's time does not go back with the clock
	return FilesPrefix(tenant) + id.String() + ending
}

// FilesPrefix begins the keys of a tenant's uploads and files.
func FilesPrefix(tenant string) string { return tenant + "/files/" }

// ExpiringPrefix begins the keys of the marks of files that expire.
func ExpiringPrefix(tenant string) string { return FilesPrefix(tenant) + "expiring/" }

// ExpiryMark returns the key of the mark that makes package files look at a file at a time.
// Marks sort by time.
func ExpiryMark(tenant, name string, at time.Time) string {
	return fmt.Sprintf("%s%012d-%s", ExpiringPrefix(tenant), at.Unix(), name)
}

// IsUpload reports whether a name below FilesPrefix is that of an upload, and when the
// upload was made.
func IsUpload(name string) (time.Time, bool) {
	text, _, _ := strings.Cut(name, ".")
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 || id.Version() != 7 || strings.Contains(name, "/") {
		return time.Time{}, false
	}
	return time.Unix(id.Time().UnixTime()), true
}

// uploadMark returns the key of an upload's mark; empty for a key that is not an upload.
func uploadMark(key string) string {
	tenant, rest, _ := strings.Cut(key, "/")
	name, ok := strings.CutPrefix(rest, "files/")
	at, upload := IsUpload(name)
	if !ok || !upload {
		return ""
	}
	return ExpiryMark(tenant, name, at.Add(UploadTime))
}

// MarkUpload makes an upload expire after UploadTime unless ClaimUploads is called before.
// It comes before the upload itself, which may break off at any moment.
func MarkUpload(ctx context.Context, s storage.Store, key string) error {
	if err := s.Put(ctx, uploadMark(key), strings.NewReader(key), "text/plain"); err != nil {
		return fmt.Errorf("mark the upload to expire: %w", err)
	}
	return nil
}

// ClaimUploads keeps uploads, because something that was accepted names them. Other keys
// are left alone.
func ClaimUploads(ctx context.Context, s storage.Store, keys ...string) error {
	var marks []string
	for _, key := range keys {
		if mark := uploadMark(key); mark != "" {
			marks = append(marks, mark)
		}
	}
	var err error
	switch len(marks) {
	case 0:
		return nil
	case 1:
		err = s.Delete(ctx, marks[0])
	default:
		err = storage.DeleteMany(ctx, s, marks)
	}
	if err != nil {
		return fmt.Errorf("keep the uploads that are named: %w", err)
	}
	return nil
}

// DiscardUpload deletes an upload and its mark. The content goes first, so that a failure
// in between leaves the rest to package files.
func DiscardUpload(ctx context.Context, s storage.Store, key string) error {
	if err := s.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete the upload: %w", err)
	}
	return ClaimUploads(ctx, s, key)
}
