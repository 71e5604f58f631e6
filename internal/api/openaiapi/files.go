package openaiapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/internal/openaibatch"
)

const (
	maxFile       = 512 << 20 // bytes of a file
	maxBatchFile  = 200 << 20 // bytes of the input of a batch
	mostListed    = 10_000    // files in a list
	batchFileLife = 30 * 24 * time.Hour
)

// purposes are those of uploads.
var purposes = []string{"assistants", "batch", "fine-tune", "vision", "user_data", "evals"}

// fileObject is a file in OpenAI's form.
type fileObject struct {
	ID            string  `json:"id"`
	Object        string  `json:"object"` // file
	Bytes         int64   `json:"bytes"`
	CreatedAt     int64   `json:"created_at"`
	ExpiresAt     *int64  `json:"expires_at,omitempty"`
	Filename      string  `json:"filename"`
	Purpose       string  `json:"purpose"`
	Status        string  `json:"status"` // processed
	StatusDetails *string `json:"status_details"`
}

func objectOf(f *files.File) fileObject {
	o := fileObject{ID: f.ID, Object: "file", Bytes: f.Bytes, CreatedAt: f.CreatedAt.Unix(), Filename: f.Name, Purpose: f.Purpose, Status: "processed"}
	if !f.ExpiresAt.IsZero() {
		at := f.ExpiresAt.Unix()
		o.ExpiresAt = &at
	}
	return o
}

func (h *Handler) filesOf(x *exchange) files.Files {
	return files.Files{Store: h.cfg.Store, Tenant: x.caller.Tenant}
}

// answer writes a value as JSON.
func (x *exchange) answer(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	x.write(http.StatusOK, "application/json", body)
	return nil
}

func missing(what string) *openai.Error {
	return &openai.Error{Status: http.StatusNotFound, Type: "invalid_request_error", Code: "not_found", Param: "", Message: "there is no such " + what}
}

// uploadForm has the parts of an upload.
type uploadForm struct {
	fields map[string][]string
	file   *files.File // stored, not published; nil if the part is missing
	packed bool        // the file is compressed
}

// createFile takes a multipart form and streams its file to the bucket.
func (h *Handler) createFile(x *exchange) error {
	contentType, params, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if err != nil || contentType != "multipart/form-data" || params["boundary"] == "" {
		e := openai.Invalid("", "send multipart/form-data with a file and its purpose")
		e.Status = http.StatusUnsupportedMediaType
		return e
	}
	if x.r.ContentLength > h.cfg.MaxFile+maxField*maxFields {
		return openai.TooLarge(h.cfg.MaxFile)
	}
	body, done := x.body(h.cfg.MaxFile + maxField*maxFields)
	defer done()
	form, err := h.readUpload(x, multipart.NewReader(body, params["boundary"]))
	done()
	published := false
	defer func() {
		if form.file != nil && !published {
			h.discardFile(x, *form.file)
		}
	}()
	if err == nil {
		err = h.checkUpload(form)
	}
	if err != nil {
		return err
	}
	earlier, err := h.sameUpload(x, form.file)
	if err != nil {
		return err
	}
	if earlier != nil {
		return x.answer(objectOf(earlier))
	}
	if err := h.filesOf(x).Publish(x.r.Context(), *form.file); err != nil {
		return err
	}
	published = true
	return x.answer(objectOf(form.file))
}

// readUpload reads the parts of a form in any order. The form names the stored file also
// beside an error.
func (h *Handler) readUpload(x *exchange, parts *multipart.Reader) (*uploadForm, error) {
	form := &uploadForm{fields: map[string][]string{}}
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return form, nil
		case err != nil:
			return form, unreadable(err)
		case n == maxFields:
			return form, openai.Invalid("", "the form has too many fields")
		case part.FormName() == "file" && form.file != nil:
			return form, openai.Invalid("file", "is given twice")
		case part.FormName() == "file":
			err = h.storeUpload(x, form, part)
		default:
			var text []byte
			text, err = io.ReadAll(io.LimitReader(part, maxField+1))
			if err != nil {
				return form, unreadable(err)
			}
			if len(text) > maxField {
				err = openai.Invalid("", "a field of the form is too long")
			}
			form.fields[part.FormName()] = append(form.fields[part.FormName()], string(text))
		}
		if err != nil {
			return form, err
		}
	}
}

func (h *Handler) storeUpload(x *exchange, form *uploadForm, part *multipart.Part) error {
	name := path.Base(strings.ReplaceAll(part.FileName(), `\`, "/"))
	if part.FileName() == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return openai.Invalid("file", "must have a file name of at most 255 bytes without control characters")
	}
	file := files.File{ID: files.NewID(), Name: name, CreatedAt: time.Now().UTC().Truncate(time.Second)}
	start := bufio.NewReader(part)
	magic, _ := start.Peek(4) // the first read returns its error too
	form.packed = openaibatch.Compressed(magic)
	from := &counted{Reader: start}
	file, err := h.filesOf(x).Create(x.r.Context(), file, from)
	form.file = &file
	switch {
	case from.err != nil:
		return unreadable(from.err)
	case err != nil:
		return err
	case from.n > h.cfg.MaxFile:
		return openai.TooLarge(h.cfg.MaxFile)
	case from.n == 0:
		return openai.Invalid("file", "is empty")
	}
	return nil
}

// checkUpload completes the description of the file by the fields of the form.
func (h *Handler) checkUpload(form *uploadForm) error {
	purpose := strings.Join(form.fields["purpose"], ",")
	switch {
	case form.file == nil:
		return openai.Invalid("file", "is missing")
	case purpose == "":
		return openai.Invalid("purpose", "is missing")
	case !slices.Contains(purposes, purpose):
		return openai.Invalid("purpose", "must be one of "+strings.Join(purposes, ", "))
	case purpose == files.Batch && !strings.EqualFold(path.Ext(form.file.Name), ".jsonl"):
		return openai.Invalid("file", "must have a name that ends in .jsonl for the purpose batch")
	case purpose == files.Batch && form.packed:
		e := openai.Invalid("file", "is compressed; send the plain lines")
		e.Status, e.Code = http.StatusUnsupportedMediaType, "compressed_input"
		return e
	case purpose == files.Batch && form.file.Bytes > h.cfg.MaxBatchFile:
		return openai.TooLarge(h.cfg.MaxBatchFile)
	}
	life, err := openai.ExpiresAfter(form.fields)
	if err != nil {
		return err
	}
	if life == 0 && purpose == files.Batch {
		life = batchFileLife
	}
	if life > 0 {
		form.file.ExpiresAt = form.file.CreatedAt.Add(life)
	}
	form.file.Purpose = purpose
	return nil
}

// sameUpload returns the file of the request that this one repeats; nil if it repeats none.
func (h *Handler) sameUpload(x *exchange, file *files.File) (*files.File, error) {
	id, err := h.claim(x, digestOf([]byte(file.SHA256), []byte(file.Name), []byte(file.Purpose), []byte(file.ExpiresAt.Sub(file.CreatedAt).String())), file.ID)
	if err != nil || id == file.ID {
		return nil, err
	}
	earlier, err := h.filesOf(x).Get(x.r.Context(), id)
	if errors.Is(err, files.ErrNotFound) { // the earlier request has not come so far
		return nil, nil //nolint:nilnil // "none" is an answer
	}
	return earlier, err
}

func (h *Handler) discardFile(x *exchange, file files.File) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), 10*time.Second)
	defer cancel()
	if err := h.filesOf(x).Discard(ctx, file); err != nil {
		h.cfg.Log.Warn("an upload was left in the bucket for a day", "file", file.ID, "error", err)
	}
}

// limitOf reads the parameter limit.
func limitOf(q url.Values, usual, most int) (int, error) {
	if !q.Has("limit") {
		return usual, nil
	}
	n, err := strconv.Atoi(q.Get("limit"))
	if err != nil || n < 1 || n > most {
		return 0, openai.Invalid("limit", fmt.Sprintf("must be a whole number from 1 to %d", most))
	}
	return n, nil
}

// list is a page in OpenAI's form.
type list[T any] struct {
	Object  string  `json:"object"` // list
	Data    []T     `json:"data"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
	HasMore bool    `json:"has_more"`
}

func listOf[T any](data []T, more bool, id func(T) string) list[T] {
	l := list[T]{Object: "list", Data: data, HasMore: more}
	if len(data) == 0 {
		l.Data = []T{}
		return l
	}
	first, last := id(data[0]), id(data[len(data)-1])
	l.FirstID, l.LastID = &first, &last
	return l
}

func (h *Handler) listFiles(x *exchange) error {
	q := x.r.URL.Query()
	limit, err := limitOf(q, mostListed, mostListed)
	if err != nil {
		return err
	}
	order := q.Get("order")
	if order != "" && order != "asc" && order != "desc" {
		return openai.Invalid("order", "must be asc or desc")
	}
	page, more, err := h.filesOf(x).List(x.r.Context(), files.ListOptions{
		After: q.Get("after"), Limit: limit, Oldest: order == "asc", Purpose: q.Get("purpose"),
	})
	if errors.Is(err, files.ErrNotFound) {
		return openai.Invalid("after", "is no file")
	}
	if err != nil {
		return err
	}
	var data []fileObject
	for _, f := range page {
		data = append(data, objectOf(f))
	}
	return x.answer(listOf(data, more, func(f fileObject) string { return f.ID }))
}

// file returns the file that the path names.
func (h *Handler) file(x *exchange) (*files.File, error) {
	f, err := h.filesOf(x).Get(x.r.Context(), x.r.PathValue("id"))
	if errors.Is(err, files.ErrNotFound) {
		return nil, missing("file")
	}
	return f, err
}

func (h *Handler) getFile(x *exchange) error {
	f, err := h.file(x)
	if err != nil {
		return err
	}
	return x.answer(objectOf(f))
}

func (h *Handler) deleteFile(x *exchange) error {
	f, err := h.file(x)
	if err != nil {
		return err
	}
	err = h.filesOf(x).Delete(x.r.Context(), f.ID)
	if errors.Is(err, files.ErrNotFound) {
		return missing("file")
	}
	if err != nil {
		return err
	}
	return x.answer(struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Deleted bool   `json:"deleted"`
	}{f.ID, "file", true})
}

// fileContent streams a file. It takes requests of one range.
func (h *Handler) fileContent(x *exchange) error {
	f, err := h.file(x)
	if err != nil {
		return err
	}
	if strings.Contains(x.r.Header.Get("Range"), ",") {
		return badRange()
	}
	content := objects.NewSeeker(x.r.Context(), h.cfg.Store, h.filesOf(x).Key(f.ID), f.Bytes)
	defer content.Close()
	header := x.w.Header()
	header.Set("Content-Type", "application/octet-stream")
	if strings.EqualFold(path.Ext(f.Name), ".jsonl") {
		header.Set("Content-Type", "application/jsonl")
	}
	header.Set("ETag", `"`+f.SHA256+`"`)
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": f.Name}))
	header.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	w := &patientWriter{ResponseWriter: x.w, x: x}
	http.ServeContent(w, x.r, "", f.CreatedAt, content)
	if w.refused {
		return badRange()
	}
	return nil
}

func badRange() *openai.Error {
	e := openai.Invalid("", "the range is not valid; ask for one range within the file")
	e.Status = http.StatusRequestedRangeNotSatisfiable
	return e
}

// patientWriter gives each write its own time limit, and holds back what http.ServeContent
// writes about a range.
type patientWriter struct {
	http.ResponseWriter
	x       *exchange
	refused bool
}

func (w *patientWriter) WriteHeader(status int) {
	if status == http.StatusRequestedRangeNotSatisfiable {
		w.refused = true
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *patientWriter) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	w.x.allowWrite()
	return w.ResponseWriter.Write(b)
}
