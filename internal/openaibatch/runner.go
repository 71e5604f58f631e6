package openaibatch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/storage"
)

// DefaultLines is the most lines of a file, as OpenAI has it.
const DefaultLines = 50_000

// Runner has the functions of batch.Service for OpenAI's batches.
type Runner struct {
	Webhooks *webhook.Queue // nil sends none
	Lines    int            // the most of a file; 0 means DefaultLines
	Log      *slog.Logger
}

// Service adds OpenAI's batches to a service of package batch.
func (r *Runner) Service(s *batch.Service) *batch.Service {
	s.Prepare, s.Ended = r.Prepare, r.Ended
	return s
}

// Prepare validates the file of a batch and accepts its lines. A file with a fault of form
// ends the batch as failed, with the lines at fault.
func (r *Runner) Prepare(ctx context.Context, native *batch.Batches, id string) (*batch.Batch, error) {
	b := New(native)
	q, err := b.request(ctx, clientID(id))
	if errors.Is(err, ErrNotFound) {
		return nil, batch.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	known, err := b.final(ctx, q.ID)
	if known != nil {
		return nil, r.refused(ctx, b, q, known)
	}
	at, cancelErr := b.Cancellation(ctx, id)
	if err = errors.Join(err, cancelErr); err != nil {
		return nil, err
	}
	if !at.IsZero() {
		o := q.object()
		o.CancellingAt = unix(at)
		o.end(cancelled, time.Now())
		return nil, r.refused(ctx, b, q, o)
	}
	d, err := r.accept(ctx, b, q)
	if reasons := reasonsOf(err, r.lines()); reasons != nil {
		o := q.object()
		o.Errors = &ErrorList{Object: "list", Data: reasons}
		o.end(failed, time.Now())
		return nil, r.refused(ctx, b, q, o)
	}
	return d, err
}

// refused ends a batch of which no line is run.
func (r *Runner) refused(ctx context.Context, b *Batches, q *request, o *Object) error {
	if err := r.finish(ctx, b, q, o); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", batch.ErrRefused, o.Status)
}

func (r *Runner) lines() int {
	if r.Lines > 0 {
		return r.Lines
	}
	return DefaultLines
}

// accept makes a batch of package batch.
func (r *Runner) accept(ctx context.Context, b *Batches, q *request) (*batch.Batch, error) {
	lines := &reader{ctx: ctx, endpoint: q.Endpoint, client: b.Client, files: b.Files, most: r.lines()}
	file, err := b.Files.Get(ctx, q.InputFileID)
	if err != nil {
		return nil, err
	}
	src := batch.Source{Name: file.Name, Format: lines.format, Open: func() (io.ReadCloser, error) { return openPlain(ctx, b.Files, file.ID) }}
	src.CallEach = q.Endpoint == openai.Chat || q.Endpoint == openai.Responses || q.Endpoint == openai.Images // equal requests may be meant to have different answers
	return b.Accept(ctx, NativeID(q.ID), src, batch.AcceptOptions{Deadline: q.expiresAt(), Metadata: q.Metadata, Key: q.Key, ByWorkers: true, NoOutput: true})
}

var errCompressed = errors.New("the file is compressed")

// openPlain opens a file that must not be compressed: the limits of this surface are those
// of the plain file.
func openPlain(ctx context.Context, f files.Files, id string) (io.ReadCloser, error) {
	body, err := f.Store.Get(ctx, f.Key(id))
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(body, 64<<10)
	start, _ := buffered.Peek(4) // the first read returns its error too
	if Compressed(start) {
		body.Close()
		return nil, errCompressed
	}
	return struct {
		io.Reader
		io.Closer
	}{buffered, body}, nil
}

// Compressed reports whether a file begins as gzip or zstd files do.
func Compressed(start []byte) bool {
	return bytes.HasPrefix(start, []byte{0x1f, 0x8b}) || bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// reasonsOf returns why a file is refused for good; nil for another error or none.
func reasonsOf(err error, most int) (reasons []LineError) {
	if invalid, ok := errors.AsType[*batch.InvalidError](err); ok {
		for _, p := range invalid.Report.Problems {
			reasons = append(reasons, lineError(p))
		}
		return reasons
	}
	switch {
	case errors.Is(err, batch.ErrEmpty):
		return []LineError{{Code: codeEmptyFile, Message: "the input file has no lines"}}
	case errors.Is(err, errTooMany):
		return []LineError{{Code: codeTooMany, Message: fmt.Sprintf("the input file has more than %d lines", most)}}
	case errors.Is(err, errCompressed):
		return []LineError{{Code: codeCompressed, Message: "the input file is compressed; upload it as plain JSON lines"}}
	case errors.Is(err, files.ErrNotFound) || errors.Is(err, storage.ErrNotFound):
		return []LineError{{Code: codeNoFile, Message: "the input file was deleted or has expired before it was read"}}
	}
	return nil
}

// finish writes the ended batch and queues its webhook.
func (r *Runner) finish(ctx context.Context, b *Batches, q *request, o *Object) error {
	if err := b.create(ctx, b.finalKey(q.ID), o); err != nil {
		return err
	}
	if q.Webhook == "" || r.Webhooks == nil {
		return nil
	}
	final, err := b.final(ctx, q.ID) // another process may have ended it otherwise
	if err != nil || final == nil {
		return err
	}
	event := "evt_" + q.ID
	body, err := json.Marshal(map[string]any{
		"id": event, "object": "event", "type": "batch." + final.Status, "created_at": time.Now().Unix(), "data": map[string]string{"id": q.ID},
	})
	if err != nil {
		return fmt.Errorf("encode the event of %s: %w", q.ID, err)
	}
	return r.Webhooks.AddEvent(ctx, webhook.Event{ID: event, Tenant: b.Tenant, URL: q.Webhook, Subject: q.ID, Body: body})
}

// Ended writes the output files of a batch of OpenAI's, and the ended batch. It leaves other
// batches alone, and later rounds: the end that a client saw is final.
func (r *Runner) Ended(ctx context.Context, native *batch.Batches, d *batch.Batch, e *batch.End) error {
	b := New(native)
	if !idForm.MatchString(clientID(d.ID)) {
		return nil
	}
	q, err := b.request(ctx, clientID(d.ID))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	o, err := b.final(ctx, q.ID)
	if err == nil && o == nil {
		o, err = r.output(ctx, b, q, d, e)
	}
	if err != nil {
		return err
	}
	return r.finish(ctx, b, q, o)
}

// output writes the output files, and returns the ended batch.
func (r *Runner) output(ctx context.Context, b *Batches, q *request, d *batch.Batch, e *batch.End) (*Object, error) {
	o := q.object()
	o.Model, o.InProgressAt, o.FinalizingAt = modelOf(d), unix(d.CreatedAt), unix(e.EndedAt)
	if at, err := b.Cancellation(ctx, d.ID); err != nil {
		return nil, err
	} else if e.Status == batch.Cancelled && !at.IsZero() {
		o.CancellingAt = unix(at)
	}
	w := &writer{ctx: ctx, b: b, q: q, e: e}
	if err := w.write(d.ID); err != nil {
		return nil, err
	}
	var err error
	if o.OutputFileID, err = w.output.publish(); err != nil {
		return nil, err
	}
	if o.ErrorFileID, err = w.errors.publish(); err != nil {
		return nil, err
	}
	o.RequestCounts = RequestCounts{Total: d.Lines, Completed: w.output.lines, Failed: w.errors.lines}
	if o.RequestCounts.Completed+o.RequestCounts.Failed != d.Lines {
		return nil, fmt.Errorf("batch %s has %d lines, but %d of output and %d of errors", q.ID, d.Lines, w.output.lines, w.errors.lines)
	}
	o.Usage = &Usage{InputTokens: w.tokens.Input, OutputTokens: w.tokens.Output, TotalTokens: w.tokens.Input + w.tokens.Output}
	status := completed
	switch e.Status {
	case batch.Cancelled:
		status = cancelled
	case batch.Expired:
		status = expired
	}
	o.end(status, time.Now())
	return o, nil
}
