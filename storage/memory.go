package storage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a Store for tests. Create it with NewMemory; the zero value is not usable.
type Memory struct {
	mu      sync.RWMutex
	objects map[string]object
}

type object struct {
	body        []byte
	contentType string
	modified    time.Time
	etag        string
}

// NewMemory creates an empty store.
func NewMemory() *Memory { return &Memory{objects: map[string]object{}} }

var _ Store = (*Memory)(nil)

// Put implements Store.
func (m *Memory) Put(ctx context.Context, key string, body io.Reader, contentType string) error {
	return m.put(ctx, key, body, contentType, false)
}

// Create implements Store.
func (m *Memory) Create(ctx context.Context, key string, body io.Reader, contentType string) error {
	return m.put(ctx, key, body, contentType, true)
}

func (m *Memory) put(ctx context.Context, key string, body io.Reader, contentType string, once bool) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	all, err := io.ReadAll(body)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("put %s: %w: %w", key, err, ErrNotWritten)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.objects[key]; taken && once {
		return fmt.Errorf("create %s: %w", key, ErrExists)
	}
	sum := sha256.Sum256(all)
	m.objects[key] = object{all, contentType, time.Now(), hex.EncodeToString(sum[:8])}
	return nil
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	o, err := m.find(ctx, key)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(o.body)), nil
}

// Head implements Store.
func (m *Memory) Head(ctx context.Context, key string) (Info, error) {
	o, err := m.find(ctx, key)
	if err != nil {
		return Info{}, err
	}
	return Info{Key: key, Size: int64(len(o.body)), ContentType: o.contentType, Modified: o.modified, ETag: o.etag}, nil
}

func (m *Memory) find(ctx context.Context, key string) (object, error) {
	if err := cmp.Or(CheckKey(key), ctx.Err()); err != nil {
		return object{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[key]
	if !ok {
		return o, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	return o, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := cmp.Or(CheckKey(key), ctx.Err()); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(Info{}, err)
			return
		}
		m.mu.RLock()
		var found []Info
		for k, o := range m.objects {
			if strings.HasPrefix(k, prefix) && k > after {
				found = append(found, Info{Key: k, Size: int64(len(o.body)), Modified: o.modified, ETag: o.etag})
			}
		}
		m.mu.RUnlock()
		slices.SortFunc(found, func(a, b Info) int { return strings.Compare(a.Key, b.Key) })
		for _, i := range found {
			if err := ctx.Err(); err != nil {
				yield(Info{}, err)
				return
			}
			if !yield(i, nil) {
				return
			}
		}
	}
}
