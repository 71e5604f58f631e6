// Package keys keeps the API keys of the HTTP interface. A key belongs to one tenant and
// has scopes and a limit of requests. Its secret is shown once; only a hash is stored.
//
// The keys are in the bucket, because they must survive the loss of Redis: a wiped Redis
// must neither lock every caller out nor open a server that had keys. Ring caches them, so
// a request costs no access to the bucket.
package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
)

// Scope is a right of a key.
type Scope string

// The scopes.
const (
	TasksRead  Scope = "tasks:read"  // look at tasks, results, gates and workers
	TasksWrite Scope = "tasks:write" // submit, cancel, retry, upload
	GatesWrite Scope = "gates:write" // change the pace of gates
	KeysWrite  Scope = "keys:write"  // make and revoke keys
	UsageRead  Scope = "usage:read"  // look at the costs

	BudgetsWrite Scope = "budgets:write" // look at and change the caps of all tenants
)

// Scopes lists all scopes.
var Scopes = []Scope{TasksRead, TasksWrite, GatesWrite, KeysWrite, UsageRead, BudgetsWrite}

// Key is a stored key.
type Key struct {
	ID        string     `json:"id"` // the public part
	Name      string     `json:"name,omitempty"`
	Tenant    string     `json:"tenant"`
	Scopes    []Scope    `json:"scopes"`
	PerMinute int        `json:"per_minute,omitempty"` // requests a minute over all servers; 0 means no limit
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	Hash      string     `json:"hash"` // SHA-256 (hex) of id and secret
}

// Allows reports whether the key has a scope.
func (k Key) Allows(s Scope) bool { return slices.Contains(k.Scopes, s) }

// Usable reports whether the key is neither revoked nor expired.
func (k Key) Usable(now time.Time) bool {
	return k.RevokedAt == nil && (k.ExpiresAt == nil || now.Before(*k.ExpiresAt))
}

// Validate reports everything that is wrong with a new key.
func (k Key) Validate() error {
	var errs []error
	if !tenantName.MatchString(k.Tenant) {
		errs = append(errs, fmt.Errorf("tenant must match %s", tenantName))
	}
	if len(k.Scopes) == 0 {
		errs = append(errs, fmt.Errorf("scope is missing: %s", joined()))
	}
	for _, s := range k.Scopes {
		if !slices.Contains(Scopes, s) {
			errs = append(errs, fmt.Errorf("scope %q is none of %s", s, joined()))
		}
	}
	if k.PerMinute < 0 || k.PerMinute > 1_000_000 {
		errs = append(errs, errors.New("rate must be from 0 to 1000000 requests a minute"))
	}
	if len(k.Name) > 100 || strings.ContainsFunc(k.Name, func(r rune) bool { return r < ' ' }) {
		errs = append(errs, errors.New("name must have at most 100 bytes without control characters"))
	}
	return errors.Join(errs...)
}

func joined() string {
	names := make([]string, len(Scopes))
	for i, s := range Scopes {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

var tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// prefix is the folder of the keys. It begins with a character that no tenant's name does.
const prefix = "_neuronmill/keys/"

// begins is the prefix of every key, so that secret scanners can find a leaked one.
const begins = "nmk_"

var tokenForm = regexp.MustCompile(`^nmk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$`)

// Create stores a new key and returns its text, which is not stored.
func Create(ctx context.Context, s storage.Store, k Key) (Key, string, error) {
	if err := k.Validate(); err != nil {
		return Key{}, "", err
	}
	id, secret := make([]byte, 8), make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	_, _ = rand.Read(secret)
	k.ID = hex.EncodeToString(id)
	k.CreatedAt = time.Now().UTC().Truncate(time.Second)
	text := base64.RawURLEncoding.EncodeToString(secret)
	k.Hash = hash(k.ID, text)
	document, err := json.Marshal(k)
	if err != nil {
		return Key{}, "", fmt.Errorf("encode the key: %w", err)
	}
	if err := s.Create(ctx, prefix+k.ID+".json", bytes.NewReader(document), "application/json"); err != nil {
		return Key{}, "", fmt.Errorf("store the key: %w", err)
	}
	return k, begins + k.ID + "_" + text, nil
}

// List returns all keys, revoked ones too, in the order of their ids.
func List(ctx context.Context, s storage.Store) ([]Key, error) {
	var all []Key
	for info, err := range s.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the keys: %w", err)
		}
		id, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, prefix), ".json")
		if !ok {
			continue
		}
		k, err := read(ctx, s, id)
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	return all, nil
}

// Any reports whether a key was ever made. A revoked key counts: revoking the last one must
// not open a server to everybody.
func Any(ctx context.Context, s storage.Store) (bool, error) {
	for _, err := range s.List(ctx, prefix, "") {
		if err != nil {
			return false, fmt.Errorf("list the keys: %w", err)
		}
		return true, nil
	}
	return false, nil
}

// Revoke ends a key. Servers notice within CacheFor. It returns storage.ErrNotFound for an
// unknown id.
func Revoke(ctx context.Context, s storage.Store, id string) (Key, error) {
	k, err := read(ctx, s, id)
	if err != nil || k.RevokedAt != nil {
		return k, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	k.RevokedAt = &now
	document, err := json.Marshal(k)
	if err != nil {
		return Key{}, fmt.Errorf("encode the key: %w", err)
	}
	if err := s.Put(ctx, prefix+id+".json", bytes.NewReader(document), "application/json"); err != nil {
		return Key{}, fmt.Errorf("store the key: %w", err)
	}
	return k, nil
}

func read(ctx context.Context, s storage.Store, id string) (Key, error) {
	var k Key
	body, err := s.Get(ctx, prefix+id+".json")
	if err != nil {
		return k, fmt.Errorf("read the key %s: %w", id, err)
	}
	defer body.Close()
	document, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err != nil {
		return k, fmt.Errorf("read the key %s: %w", id, err)
	}
	if err := json.Unmarshal(document, &k); err != nil {
		return k, fmt.Errorf("decode the key %s: %w", id, err)
	}
	return k, nil
}

// hash is a plain SHA-256: a secret of 256 random bits cannot be guessed from it.
func hash(id, secret string) string {
	sum := sha256.Sum256([]byte("neuronmill key " + id + " " + secret))
	return hex.EncodeToString(sum[:])
}

// matches compares in constant time. The zero Key takes as long as any other.
func (k Key) matches(id, secret string) bool {
	stored := k.Hash
	if len(stored) != sha256.Size*2 {
		stored = strings.Repeat("0", sha256.Size*2)
	}
	return subtle.ConstantTimeCompare([]byte(stored), []byte(hash(id, secret))) == 1
}
