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
	"strings"
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
	stored      bool // by an earlier run
}

// describe reads a file; its text comes too where it is one.
func (f *file) describe(j *job) (tasks.Artefact, *string, error) {
	var text strings.Builder
	sum := sha256.New()
	into := io.Writer(sum)
	if strings.HasPrefix(f.contentType, "text/") {
		into = io.MultiWriter(sum, &text)
	}
	n, err := io.Copy(into, f.body)
	if err != nil {
		return tasks.Artefact{}, nil, fmt.Errorf("read %s: %w", f.name, err)
	}
	a := tasks.Artefact{Key: j.key(f.name), ContentType: f.contentType, Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))}
	if text.Len() == 0 {
		return a, nil, nil
	}
	body := text.String()
	return a, &body, nil
}

// grace is how long a paid answer is held while the bucket does not take it.
const grace = 2 * time.Minute

// keep stores a paid answer: artefacts first, the result last.
func (h *Handlers) keep(ctx context.Context, j *job, out *output) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	body, err := json.Marshal(out.result)
	if err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	files, err := h.storeFiles(ctx, j, out, body)
	if err != nil {
		return err
	}
	result := j.result(tasks.Completed)
	result.Output, result.Artefacts = body, files
	return h.finish(ctx, j, result)
}

// finish writes the one document that ends a task. When another run was first, its
// document stands and this one is dropped.
func (h *Handlers) finish(ctx context.Context, j *job, r tasks.Result) error {
	document, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	failpoint.Hit("before-result")
	create := h.cfg.Store.Create
	if !h.cfg.on(guardCreateOnly) {
		create = h.cfg.Store.Put
	}
	err = h.persist(ctx, func() error {
		return create(ctx, tasks.ResultKey(j.task.Tenant, j.task.ID), bytes.NewReader(document), "application/json")
	})
	if errors.Is(err, storage.ErrExists) {
		return h.yield(ctx, j, r)
	}
	if err != nil {
		return fmt.Errorf("store the result: %w", err)
	}
	j.failed = r.Status == tasks.Failed
	failpoint.Hit("after-result")
	h.announce(ctx, j, document)
	h.logEnd(j, r)
	return nil
}

// yield leaves the end of a task to the run that was first. A failure that came second
// to a completion is not listed.
func (h *Handlers) yield(ctx context.Context, j *job, r tasks.Result) error {
	if r.Status != tasks.Failed {
		return nil
	}
	return tasks.Unlist(ctx, h.cfg.Store, j.task.Tenant, j.task.ID)
}

// result begins the document of a task.
func (j *job) result(s tasks.Status) tasks.Result {
	r := tasks.Result{
		ID: j.task.ID, Kind: j.task.Kind, Status: s, Model: j.task.Model,
		Artefacts: []tasks.Artefact{}, Usage: tasks.Usage{Neurons: j.neurons, Calls: j.counts.calls, Unsettled: j.unsettled(), CountedSince: j.task.RecoveredAt},
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
func (h *Handlers) persist(ctx context.Context, write func() error) error {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := write()
		if err == nil || !h.cfg.on(guardHold) || errors.Is(err, storage.ErrExists) || errors.Is(err, storage.ErrInvalidKey) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
