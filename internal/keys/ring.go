package keys

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/storage"
)

// CacheFor is how long a server may go by what it has read: a revoked key works for so long
// at most.
const CacheFor = 15 * time.Second

const (
	staleFor = time.Hour // while the bucket does not answer
	mostKeys = 10_000    // cached ids, known and unknown
)

// ErrUnknown: there is no such key, its secret is wrong, or it is revoked or expired.
var ErrUnknown = errors.New("unknown key")

// Ring finds keys by their text. It is safe for concurrent use.
type Ring struct {
	store storage.Store

	mu    sync.Mutex
	known map[string]cached // by id
	any   cached
}

type cached struct {
	key  Key
	ok   bool
	read time.Time
}

// NewRing makes a ring; there is nothing to close.
func NewRing(s storage.Store) *Ring { return &Ring{store: s, known: map[string]cached{}} }

// Any reports whether callers need a key; see the function Any.
func (r *Ring) Any(ctx context.Context) (bool, error) {
	r.mu.Lock()
	was := r.any
	r.mu.Unlock()
	if age := time.Since(was.read); was.ok || !was.read.IsZero() && age < CacheFor {
		return was.ok, nil // keys are never deleted, so true stays true
	}
	any, err := Any(ctx, r.store)
	if err != nil {
		return true, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.any = cached{ok: any, read: time.Now()}
	return any, nil
}

// Find returns the key with a text. It returns ErrUnknown, or the error of the bucket if
// the answer is neither known nor cached.
func (r *Ring) Find(ctx context.Context, text string) (Key, error) {
	parts := tokenForm.FindStringSubmatch(text)
	if parts == nil {
		return Key{}, ErrUnknown
	}
	id, secret := parts[1], parts[2]
	k, err := r.byID(ctx, id)
	if err != nil {
		return Key{}, err
	}
	if ok := k.matches(id, secret); !ok || !k.Usable(time.Now()) {
		return Key{}, ErrUnknown
	}
	return k, nil
}

// Cached reports whether the ring has the key with this id in memory, so that Find is
// cheap. It does not compare the secret.
func (r *Ring) Cached(text string) bool {
	parts := tokenForm.FindStringSubmatch(text)
	if parts == nil {
		return true // Find needs no bucket to refuse it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	was, found := r.known[parts[1]]
	return found && was.key.ID != ""
}

// byID returns the zero Key for an unknown id.
func (r *Ring) byID(ctx context.Context, id string) (Key, error) {
	r.mu.Lock()
	was, found := r.known[id]
	r.mu.Unlock()
	if found && time.Since(was.read) < CacheFor {
		return was.key, nil
	}
	k, err := read(ctx, r.store, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		k = Key{}
	case err != nil && found && time.Since(was.read) < staleFor:
		return was.key, nil
	case err != nil:
		return Key{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= mostKeys {
		clear(r.known)
	}
	r.known[id] = cached{key: k, read: time.Now()}
	return k, nil
}
