package handlers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// file is an artefact to be.
type file struct {
	name        string // "image.png"
	contentType string
	body        io.ReadSeeker
}

// grace is how long a paid answer is held while the bucket does not take it.
const grace = 2 * time.Minute

// keep stores a paid answer: artefacts first, the result last.
func (h *Handlers) keep(ctx context.Context, j *job, out *output) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	result := j.result(tasks.Completed)
	for _, f := range out.files {
		a, err := h.putFile(ctx, j, f)
		if err != nil {
			return err
		}
		result.Artefacts = append(result.Artefacts, a)
		failpoint.Hit("after-artefact")
	}
	body, err := json.Marshal(out.result)
	if err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	result.Output = body
	return h.finish(ctx, j, result)
}

func (h *Handlers) putFile(ctx context.Context, j *job, f file) (tasks.Artefact, error) {
	sum := sha256.New()
	n, err := io.Copy(sum, f.body)
	if err != nil {
		return tasks.Artefact{}, fmt.Errorf("read %s: %w", f.name, err)
	}
	a := tasks.Artefact{Key: j.key(f.name), ContentType: f.contentType, Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))}
	return a, persist(ctx, func() error {
		if _, err := f.body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return h.cfg.Store.Put(ctx, a.Key, f.body, f.contentType)
	})
}

// finish writes the one document that ends a task. When another run was first, its
// document stands and this one is dropped.
func (h *Handlers) finish(ctx context.Context, j *job, r tasks.Result) error {
	document, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	failpoint.Hit("before-result")
	err = persist(ctx, func() error {
		return h.cfg.Store.Create(ctx, tasks.ResultKey(j.task.Tenant, j.task.ID), bytes.NewReader(document), "application/json")
	})
	if errors.Is(err, storage.ErrExists) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store the result: %w", err)
	}
	failpoint.Hit("after-result")
	h.announce(ctx, j.task.ID, document)
	h.logEnd(j, r)
	return nil
}

// result begins the document of a task.
func (j *job) result(s tasks.Status) tasks.Result {
	r := tasks.Result{
		ID: j.task.ID, Kind: j.task.Kind, Status: s, Model: j.task.Model,
		Artefacts: []tasks.Artefact{}, Usage: tasks.Usage{Neurons: j.neurons, Calls: j.counts.calls},
		CreatedAt: j.task.CreatedAt, FinishedAt: time.Now().UTC(),
		Attempts: j.counts.spent(), Metadata: j.task.Metadata, Digest: j.task.Digest,
	}
	if r.Metadata == nil {
		r.Metadata = map[string]string{}
	}
	if !j.startedAt.IsZero() {
		started := j.startedAt.UTC()
		r.StartedAt = &started
	}
	return r
}

// persist repeats a write while what it writes has been paid for: giving up would
// mean paying again.
func persist(ctx context.Context, write func() error) error {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := write()
		if err == nil || errors.Is(err, storage.ErrExists) || errors.Is(err, storage.ErrInvalidKey) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
