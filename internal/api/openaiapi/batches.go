package openaiapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/internal/openaibatch"
	"github.com/redis/go-redis/v9"
)

func (h *Handler) batchesOf(x *exchange) *openaibatch.Batches {
	return openaibatch.New(batch.New(batch.Config{
		Client: x.caller.Client, Store: h.cfg.Store, Redis: h.cfg.Redis, Tenant: x.caller.Tenant, Log: h.cfg.Log,
	}))
}

// repeatedFor is how long a repetition finds the batch or file of the first request. SDKs
// repeat within minutes.
const repeatedFor = time.Hour

// claim returns the id for a request with a digest: that of the request it repeats, or its
// own. SDKs repeat silently and only count, see isRepetition. An idempotency key makes any
// request a repetition of the first one with the key.
func (h *Handler) claim(x *exchange, digest, id string) (string, error) {
	ctx, key := x.r.Context(), x.recordKey(x.r.Method+" "+digest)
	own := x.r.Header.Get("Idempotency-Key")
	if own == "" && !x.isRepetition() {
		if err := h.cfg.Redis.Set(ctx, key, digest+" "+id, repeatedFor).Err(); err != nil {
			return "", fmt.Errorf("leave a record of the request: %w", err)
		}
		return id, nil
	}
	life := repeatedFor
	if own != "" {
		if err := checkOwnKey(own); err != nil {
			return "", err
		}
		key, life = x.recordKey("own "+own), ownKept
	}
	err := h.cfg.Redis.SetArgs(ctx, key, digest+" "+id, redis.SetArgs{Mode: "NX", TTL: life}).Err()
	if err == nil {
		return id, nil
	}
	if !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("leave a record of the request: %w", err)
	}
	text, err := h.cfg.Redis.Get(ctx, key).Result()
	if err != nil {
		return "", fmt.Errorf("read the record of a request: %w", err)
	}
	earlier, known, _ := strings.Cut(text, " ")
	if earlier != digest {
		return "", mismatch()
	}
	return known, nil
}

func (h *Handler) createBatch(x *exchange) error {
	body, err := x.wholeBody(maxBatchRequest)
	if err != nil {
		return err
	}
	request, err := openai.ParseBatch(body)
	if err != nil {
		return err
	}
	if request.Webhook != "" {
		u, err := url.Parse(request.Webhook)
		if err != nil || len(request.Webhook) > 2048 || h.cfg.WebhookNetworks.Allowed(u) != nil {
			return openai.Invalid("webhook", "must begin with https:// and name a public host")
		}
	}
	id, err := h.claim(x, digestOf(body), openaibatch.NewID())
	if err != nil {
		return err
	}
	ctx := x.r.Context()
	known, err := h.batchesOf(x).Get(ctx, id) // a repetition may come after the file was deleted
	if errors.Is(err, openaibatch.ErrNotFound) {
		if err := h.checkInput(ctx, x, request.InputFileID); err != nil {
			return err
		}
		known, err = h.batchesOf(x).Create(ctx, id, x.caller.Key, request)
	}
	if err != nil {
		return err
	}
	return x.answer(known)
}

// maxBatchRequest is the most bytes of the request that creates a batch.
const maxBatchRequest = 64 << 10

func (h *Handler) checkInput(ctx context.Context, x *exchange, id string) error {
	f, err := h.filesOf(x).Get(ctx, id)
	switch {
	case errors.Is(err, files.ErrNotFound):
		e := missing("file")
		e.Param = "input_file_id"
		return e
	case err != nil:
		return err
	case f.Purpose != files.Batch:
		return openai.Invalid("input_file_id", "must be a file with the purpose batch")
	}
	return nil
}

func (h *Handler) listBatches(x *exchange) error {
	q := x.r.URL.Query()
	limit, err := limitOf(q, 20, 100)
	if err != nil {
		return err
	}
	page, more, err := h.batchesOf(x).List(x.r.Context(), q.Get("after"), limit)
	if errors.Is(err, openaibatch.ErrNotFound) {
		return openai.Invalid("after", "is no batch")
	}
	if err != nil {
		return err
	}
	return x.answer(listOf(page, more, func(o *openaibatch.Object) string { return o.ID }))
}

func (h *Handler) getBatch(x *exchange) error {
	return x.batch(h.batchesOf(x).Get(x.r.Context(), x.r.PathValue("id")))
}

func (h *Handler) cancelBatch(x *exchange) error {
	return x.batch(h.batchesOf(x).Cancel(x.r.Context(), x.r.PathValue("id")))
}

// batch answers with a batch, or with the reason why there is none.
func (x *exchange) batch(o *openaibatch.Object, err error) error {
	switch {
	case errors.Is(err, openaibatch.ErrNotFound):
		return missing("batch")
	case errors.Is(err, openaibatch.ErrEnded):
		e := openai.Invalid("", "the batch has ended and cannot be cancelled")
		e.Status, e.Final = http.StatusConflict, true
		return e
	case err != nil:
		return err
	}
	return x.answer(o)
}
