package engine

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
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// describe reads a file and returns its artefact, and its text if it is a text file.
func (f *File) describe(j *job) (tasks.Artefact, *string, error) {
	var text strings.Builder
	sum := sha256.New()
	into := io.Writer(sum)
	if strings.HasPrefix(f.ContentType, "text/") {
		into = io.MultiWriter(sum, &text)
	}
	n, err := io.Copy(into, f.Body)
	if err != nil {
		return tasks.Artefact{}, nil, fmt.Errorf("read %s: %w", f.Name, err)
	}
	a := tasks.Artefact{Key: j.key(f.Name), ContentType: f.ContentType, Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))}
	if text.Len() == 0 {
		return a, nil, nil
	}
	body := text.String()
	return a, &body, nil
}

// grace is how long a stopping worker keeps a paid answer while the bucket fails. It is also
// how long an answer is kept that the bucket refuses although it takes other objects.
const grace = 2 * time.Minute

// commit commits a paid answer: artefacts first, the result last.
func (e *Engine) commit(ctx context.Context, j *job, out *Output) error {
	ctx, cancel := e.storingContext(ctx)
	defer cancel()
	j.storesSince = time.Now()
	body, err := json.Marshal(out.Result)
	if err != nil {
		return &UnusableError{fmt.Errorf("encode the output: %w", err)}
	}
	files, err := e.storeFiles(ctx, j, out, body)
	if err != nil {
		return err
	}
	result := j.result(tasks.Completed)
	result.Output, result.Artefacts = body, files
	return e.storeResult(ctx, j, result)
}

// storeResult writes the result document that ends a task. If another run has committed first,
// its document stands and this one is dropped.
func (e *Engine) storeResult(ctx context.Context, j *job, r tasks.Result) error {
	document, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	failpoint.Hit("before-result")
	err = e.persist(ctx, func(ctx context.Context) error {
		return e.cfg.Store.Create(ctx, objects.ResultKey(j.task.Tenant, j.task.ID), bytes.NewReader(document), "application/json")
	})
	if errors.Is(err, storage.ErrExists) {
		j.resultExists = true // another run committed first, or the reply to this write was lost: see cleanUp
		return nil
	}
	if err != nil {
		return fmt.Errorf("store the result: %w", err)
	}
	j.failed = r.Status == tasks.Failed
	if !j.storesSince.IsZero() {
		j.stored = time.Since(j.storesSince)
	}
	failpoint.Hit("after-result")
	e.logEnd(j, r)
	j.observeEnd(r, false)
	if j.failed {
		// Only a failure that ended the task is listed.
		if err := tasks.ListFailure(ctx, e.cfg.Store, j.task.Tenant, r, j.document, true); err != nil {
			return err
		}
	}
	return e.announce(ctx, j, r, document, false)
}

// result returns a result document with all fields but the output, the error and the files.
func (j *job) result(s tasks.Status) tasks.Result {
	r := tasks.Result{
		ID: j.task.ID, Kind: j.task.Kind, Status: s, Model: j.task.Model,
		Artefacts: []tasks.Artefact{}, Usage: j.usage(),
		CreatedAt: j.task.CreatedAt, FinishedAt: time.Now().UTC(),
		Attempts: j.counts.spent(), Metadata: j.task.Metadata, Origin: j.task.Origin, Digest: j.task.Digest,
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
