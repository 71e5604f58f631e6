package openaibatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// writer writes the lines of a batch into its two files.
type writer struct {
	ctx context.Context //nolint:containedctx // of one call
	b   *Batches
	q   *request
	e   *batch.End

	output, errors *lineFile
	tokens         openai.Tokens
}

// write writes all lines, in the order of the input.
func (w *writer) write(native string) error {
	w.output, w.errors = w.file("output"), w.file("error")
	_, err := w.b.Answers(w.ctx, native, w.line)
	for _, f := range []*lineFile{w.output, w.errors} {
		if closed := f.close(err); err == nil {
			err = closed
		}
	}
	return err
}

func (w *writer) file(name string) *lineFile {
	f := files.File{
		ID: files.DerivedID(w.e.EndedAt, w.b.Tenant, w.q.ID, name), Name: w.q.ID + "_" + name + ".jsonl",
		Purpose: files.BatchOutput, CreatedAt: w.e.EndedAt,
	}
	if w.q.OutputExpires > 0 {
		f.ExpiresAt = f.CreatedAt.Add(w.q.OutputExpires)
	}
	return &lineFile{ctx: w.ctx, files: w.b.Files, file: f}
}

// nativeLine is a line of output of package batch.
type nativeLine struct {
	Status string           `json:"status"`
	Output jsontext.Value   `json:"output"`
	Usage  tasks.Usage      `json:"usage"`
	Error  *tasks.TaskError `json:"error"`
}

// line writes one line of output or of errors.
func (w *writer) line(a *batch.Answered) error {
	var kept extra
	if len(a.Extra) > 0 {
		if err := json.Unmarshal(a.Extra, &kept); err != nil {
			return fmt.Errorf("decode what line %d keeps: %w", a.Number, err)
		}
	}
	if kept.Refusal != nil {
		return w.errors.add(w.respond(a, kept.Refusal.Status, kept.Refusal.Body))
	}
	var n nativeLine
	if err := json.Unmarshal(a.Output, &n); err != nil {
		return fmt.Errorf("decode the output of line %d: %w", a.Number, err)
	}
	if code := unrun(n.Error); code != "" {
		return w.errors.add(w.unanswered(a, code, n.Error.Message))
	}
	r, err := openai.Restore(w.q.Endpoint, a.Model, kept.Options)
	if err != nil {
		return fmt.Errorf("decode the options of line %d: %w", a.Number, err)
	}
	result := &tasks.Result{
		ID: w.number(a), Kind: a.Kind, Model: a.Model, Status: tasks.Status(n.Status), Output: []byte(n.Output), Usage: n.Usage, Error: n.Error, FinishedAt: w.e.EndedAt,
	}
	artefacts := &opener{ctx: w.ctx, store: w.b.Store}
	response, err := r.Response(result, artefacts.open)
	switch {
	case artefacts.failed != nil: // the next attempt may succeed
		return fmt.Errorf("write the response of line %d: %w", a.Number, artefacts.failed)
	case err != nil:
		w.b.Log.Error("a line of a batch has no readable result", "batch", w.q.ID, "line", a.Number, "error", err)
		return w.errors.add(w.unanswered(a, tasks.CodeInternalError, "the result of the line cannot be read"))
	}
	w.tokens.Input, w.tokens.Output = w.tokens.Input+response.Tokens.Input, w.tokens.Output+response.Tokens.Output
	if response.Error != nil {
		return w.errors.add(w.respond(a, response.Status, response.Body))
	}
	return w.output.add(w.respond(a, response.Status, response.Body))
}

// opener opens artefacts. It keeps a failure of the bucket itself, in contrast to an
// artefact that is missing.
type opener struct {
	ctx    context.Context //nolint:containedctx // an openai.Opener has none
	store  storage.Store
	failed error
}

func (o *opener) open(key string) (io.ReadCloser, error) {
	if key == "" {
		return nil, storage.ErrNotFound
	}
	body, err := o.store.Get(o.ctx, key)
	if err != nil {
		o.keep(err)
		return nil, err
	}
	return &artefact{body, o}, nil
}

func (o *opener) keep(err error) {
	if !errors.Is(err, storage.ErrNotFound) {
		o.failed = err
	}
}

type artefact struct {
	io.ReadCloser
	opener *opener
}

func (a *artefact) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		a.opener.keep(err)
	}
	return n, err
}

// unrun returns the code of a line without a response; empty for others.
func unrun(e *tasks.TaskError) string {
	switch {
	case e == nil:
		return ""
	case e.Code == batch.CodeCancelled || e.Code == batch.CodeExpired:
		return e.Code
	case e.Code == tasks.CodeDeadlineExceeded: // tasks of a batch have its deadline
		return batch.CodeExpired
	}
	return ""
}

// number identifies a line over all batches.
func (w *writer) number(a *batch.Answered) string {
	return fmt.Sprintf("%s%08x", strings.TrimPrefix(w.q.ID, prefix), a.Number)
}

// respond makes a line with a response of HTTP.
func (w *writer) respond(a *batch.Answered, status int, body []byte) []byte {
	line := w.begin(a, len(body))
	line = fmt.Appendf(line, `"response":{"status_code":%d,"request_id":"req_%s","body":`, status, w.number(a))
	return append(append(line, body...), "},\"error\":null}\n"...)
}

// unanswered makes a line without a response.
func (w *writer) unanswered(a *batch.Answered, code, message string) []byte {
	line := append(w.begin(a, len(message)), `"response":null,"error":{"code":`...)
	line = appendText(line, code)
	line = append(line, `,"message":`...)
	return append(appendText(line, message), "}}\n"...)
}

func (w *writer) begin(a *batch.Answered, size int) []byte {
	line := make([]byte, 0, size+len(a.ID)+256)
	line = fmt.Appendf(line, `{"id":"batch_req_%s","custom_id":`, w.number(a))
	return append(appendText(line, a.ID), ',')
}

// appendText appends a JSON string. Ids and messages are valid UTF-8.
func appendText(line []byte, text string) []byte {
	quoted, err := jsontext.AppendQuote(line, strings.ToValidUTF8(text, "?"))
	if err != nil {
		return append(line, `""`...)
	}
	return quoted
}

// lineFile is a file that begins to exist with its first line. It streams into the bucket.
type lineFile struct {
	ctx   context.Context //nolint:containedctx // of one call
	files files.Files
	file  files.File
	lines int

	pipe *io.PipeWriter
	done chan error
}

func (f *lineFile) add(line []byte) error {
	if f.pipe == nil {
		f.start()
	}
	f.lines++
	_, err := f.pipe.Write(line)
	return err
}

func (f *lineFile) start() {
	reader, writer := io.Pipe()
	f.pipe, f.done = writer, make(chan error, 1)
	go func() {
		stored, err := f.files.Create(f.ctx, f.file, reader)
		reader.CloseWithError(err) // a writer that still writes gets it
		f.file = stored
		f.done <- err
	}()
}

// close ends the content, or discards it because of an error.
func (f *lineFile) close(err error) error {
	if f.pipe == nil {
		return nil
	}
	f.pipe.CloseWithError(err) // nil is the end
	return <-f.done
}

// publish makes the file visible and returns its id; nil for a file without lines.
func (f *lineFile) publish() (*string, error) {
	if f.lines == 0 {
		return nil, nil //nolint:nilnil // there is no file
	}
	return &f.file.ID, f.files.Publish(f.ctx, f.file)
}
