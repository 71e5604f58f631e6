package handlers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
)

// storable tries a create-only write, until one was answered: what is paid for must not
// meet a bucket that has none only when its result is there.
func (h *Handlers) storable(ctx context.Context) error {
	if h.tried.Load() || !h.cfg.on(guardStorable) {
		return nil
	}
	const key = "default/doctor/create-only"
	err := h.cfg.Store.Create(ctx, key, strings.NewReader("a worker tries the bucket"), "text/plain")
	switch {
	case err == nil:
		_ = h.cfg.Store.Delete(ctx, key) // one that stays serves the next worker
	case errors.Is(err, errors.ErrUnsupported):
		h.said.Do(func() {
			h.cfg.Log.Error("no call is sent: its result could not be stored", "error", clean(err.Error()))
		})
		return fmt.Errorf("try the bucket: %w", err)
	case !errors.Is(err, storage.ErrExists):
		return fmt.Errorf("try the bucket: %w", err)
	}
	h.tried.Store(true)
	return nil
}

// storableAtAll keeps a worker from starting on a bucket that will never take a result.
// One that is away just now is tried again before the first call.
func (h *Handlers) storableAtAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := h.storable(ctx); errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
