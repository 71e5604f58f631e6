// Package openaibatch runs OpenAI's batches as batches of package batch. It knows no HTTP.
//
// Create writes the request and hands the batch to the drivers of package batch. Whichever
// process gets the lease validates the file and makes a batch of it (Runner.Prepare), and
// writes the output files after its end (Runner.Ended). The state of a batch follows from
// documents, so a process that dies changes nothing but time.
//
// Objects of a tenant, beside those of package batch:
//
//	batches/openai/<inverted id>.json   the request, create-only: listed newest first
//	batches/<id>/final.json             the ended batch as clients see it, create-only
package openaibatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/storage"
)

var (
	// ErrNotFound: there is no batch with the id.
	ErrNotFound = errors.New("batch not found")
	// ErrEnded: the batch has ended and cannot be cancelled.
	ErrEnded = errors.New("the batch has ended")
)

// Batches are the batches of a tenant.
type Batches struct {
	*batch.Batches
	Files files.Files
}

// New returns the OpenAI batches among the batches of a tenant.
func New(b *batch.Batches) *Batches {
	return &Batches{b, files.Files{Store: b.Store, Tenant: b.Tenant}}
}

// request is the document of a batch that was accepted.
type request struct {
	ID string `json:"id"`
	openai.BatchRequest
	Key       string    `json:"key,omitempty"` // id of the API key that created it
	CreatedAt time.Time `json:"created_at"`
}

func (r *request) expiresAt() time.Time { return r.CreatedAt.Add(r.Within) }

const prefix = "batch_"

var idForm = regexp.MustCompile(`^batch_[0-9a-f]{32}$`)

// NewID returns a random id. Ids of later batches sort after those of earlier ones.
func NewID() string { return prefix + strings.ReplaceAll(uuid.Must(uuid.NewV7()).String(), "-", "") }

// NativeID returns the id of the same batch in package batch.
func NativeID(id string) string { return "b_" + strings.TrimPrefix(id, prefix) }

func clientID(native string) string { return prefix + strings.TrimPrefix(native, "b_") }

func (b *Batches) index() string { return b.Tenant + "/batches/openai/" }

func (b *Batches) requestKey(id string) string {
	return b.index() + objects.Inverted(strings.TrimPrefix(id, prefix)) + ".json"
}

func (b *Batches) finalKey(id string) string {
	return b.Tenant + "/batches/" + NativeID(id) + "/final.json"
}

// Create accepts a batch under an id of NewID. Repeated with the same id it returns the
// same batch. key is the id of the caller's API key, for the usage; it may be empty.
func (b *Batches) Create(ctx context.Context, id, key string, r *openai.BatchRequest) (*Object, error) {
	document := request{ID: id, BatchRequest: *r, Key: key, CreatedAt: time.Now().UTC().Truncate(time.Second)}
	if err := b.create(ctx, b.requestKey(id), document); err != nil {
		return nil, err
	}
	if err := b.Hand(ctx, NativeID(id)); err != nil {
		return nil, err
	}
	return b.Get(ctx, id)
}

// Get returns a batch as clients see it, or ErrNotFound.
func (b *Batches) Get(ctx context.Context, id string) (*Object, error) {
	if !idForm.MatchString(id) {
		return nil, ErrNotFound
	}
	o, err := b.final(ctx, id)
	if o != nil || err != nil {
		return o, err
	}
	r, err := b.request(ctx, id)
	if err != nil {
		return nil, err
	}
	o = r.object()
	cancelled, err := b.Cancellation(ctx, NativeID(id))
	if err != nil {
		return nil, err
	}
	s, err := b.State(ctx, NativeID(id))
	switch {
	case errors.Is(err, batch.ErrNotFound):
		// A process that died while it accepted the batch may not have handed it over.
		err = b.Hand(ctx, NativeID(id))
	case err == nil:
		o.runs(s)
	}
	if !cancelled.IsZero() {
		o.Status, o.CancellingAt = cancelling, unix(cancelled)
	}
	return o, err
}

func (b *Batches) request(ctx context.Context, id string) (*request, error) {
	r, err := read[request](ctx, b.Store, b.requestKey(id))
	if r == nil && err == nil {
		err = ErrNotFound
	}
	return r, err
}

// final returns the ended batch, or nil if it has not ended.
func (b *Batches) final(ctx context.Context, id string) (*Object, error) {
	return read[Object](ctx, b.Store, b.finalKey(id))
}

// List returns a page of batches, the newest first, and whether more follow. after is the id
// of the last batch of the page before. It returns ErrNotFound when after is no batch.
func (b *Batches) List(ctx context.Context, after string, limit int) ([]*Object, bool, error) {
	if after != "" {
		if !idForm.MatchString(after) {
			return nil, false, ErrNotFound
		}
		if _, err := b.request(ctx, after); err != nil {
			return nil, false, err
		}
	}
	ids := objects.NewestFirst(ctx, b.Store, b.index(), strings.TrimPrefix(after, prefix))
	return objects.Page(ctx, ids, limit, func(ctx context.Context, id string) (*Object, error) {
		return b.Get(ctx, prefix+id)
	})
}

// Cancel ends a batch early and returns it. It returns ErrEnded if it has ended
// otherwise. A batch whose output is being written ends as if it had not been cancelled.
func (b *Batches) Cancel(ctx context.Context, id string) (*Object, error) {
	o, err := b.Get(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case o.Status == cancelling || o.Status == cancelled || o.Status == finalizing:
		return o, nil
	case o.ended():
		return nil, ErrEnded
	}
	err = b.Batches.Cancel(ctx, NativeID(id))
	if errors.Is(err, batch.ErrNotFound) {
		err = b.CancelUnprepared(ctx, NativeID(id))
	}
	if err != nil && !errors.Is(err, batch.ErrEnded) {
		return nil, err
	}
	return b.Get(ctx, id)
}

// read reads a document; nil if there is none.
func read[T any](ctx context.Context, s storage.Store, key string) (*T, error) {
	document, err := objects.Read(ctx, s, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil //nolint:nilnil // "none" is an answer
	}
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(document, v); err != nil {
		return nil, fmt.Errorf("decode %s: %w", key, err)
	}
	return v, nil
}

// create writes a document once. A document that exists already is not an error.
func (b *Batches) create(ctx context.Context, key string, v any) error {
	document, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	return objects.CreateJSON(ctx, b.Store, key, document)
}
