package openaiapi

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/openai"
)

const (
	maxField  = 64 << 10 // bytes of a form's field
	maxFields = 32
)

// serveSpeech takes a multipart form with a recording, or JSON with the URL of one.
func (h *Handler) serveSpeech(x *exchange) error {
	contentType, params, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	switch {
	case err == nil && contentType == "application/json":
		return h.serveJSON(x)
	case err != nil || contentType != "multipart/form-data" || params["boundary"] == "":
		e := openai.Invalid("", "send multipart/form-data with a file, or application/json with a url")
		e.Status = 415
		return e
	}
	const limit = media.AudioLimit + 1<<20
	if x.r.ContentLength > limit {
		return openai.TooLarge(limit)
	}
	body, done := x.body(limit)
	defer done()
	j, err := h.readForm(x, multipart.NewReader(body, params["boundary"]))
	done()
	defer h.forget(x, j)
	if err != nil {
		return err
	}
	return h.run(x, j)
}

// readForm reads the parts of a form in any order. The recording goes straight to the
// bucket. The job names the uploaded object also beside an error.
func (h *Handler) readForm(x *exchange, parts *multipart.Reader) (*job, error) {
	j, form, sound := &job{}, map[string][]string{}, sha256.New()
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return j, unreadable(err)
		}
		switch {
		case n == maxFields:
			return j, openai.Invalid("", "the form has too many fields")
		case part.FormName() == "file" && j.audio != "":
			return j, openai.Invalid("file", "is given twice")
		case part.FormName() == "file":
			if err := h.storeSpeech(x, j, part, sound); err != nil {
				return j, err
			}
		default:
			text, err := io.ReadAll(io.LimitReader(part, maxField+1))
			if err != nil {
				return j, unreadable(err)
			}
			if len(text) > maxField {
				return j, openai.Invalid("", "a field of the form is too long")
			}
			form[part.FormName()] = append(form[part.FormName()], string(text))
		}
	}
	request, err := openai.ParseForm(x.r.URL.Path, form)
	if err != nil {
		return j, err
	}
	if j.audio == "" {
		return j, openai.Invalid("file", "is missing; send the recording as a file")
	}
	request.SetAudio(j.audio)
	if err := request.Payload.Validate(); err != nil {
		return j, request.Refusal(err)
	}
	fields, err := json.Marshal(form) // in order of name
	if err != nil {
		return j, err
	}
	j.request, j.digest = request, digestOf(sound.Sum(nil), fields)
	return j, nil
}

// storeSpeech streams a recording to the bucket.
func (h *Handler) storeSpeech(x *exchange, j *job, part *multipart.Part, sum io.Writer) error {
	start := bufio.NewReaderSize(part, 512)
	magic, err := start.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return unreadable(err)
	}
	if _, ok := media.Audio(magic); len(magic) > 0 && !ok {
		return openai.Invalid("file", "is not in a known format of audio")
	}
	j.audio = objects.NewUploadKey(x.caller.Tenant, extension(part.FileName()))
	if err := objects.MarkUpload(x.r.Context(), h.cfg.Store, j.audio); err != nil {
		return err
	}
	from := &counted{Reader: io.TeeReader(start, sum)}
	err = h.cfg.Store.Put(x.r.Context(), j.audio, from, contentTypeOf(part))
	switch {
	case from.err != nil:
		return unreadable(from.err)
	case err != nil:
		return err
	case from.n == 0:
		return openai.Invalid("file", "is empty")
	}
	return nil
}

// counted counts the bytes of a reader and keeps its error.
type counted struct {
	io.Reader
	n   int64
	err error
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// forget deletes uploads that no task needs any more: this request's own if an earlier one
// is used, and both when the task has ended. The upload of a task that outlives its client
// is deleted by abandon.
func (h *Handler) forget(x *exchange, j *job) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), 10*time.Second)
	defer cancel()
	if used := j.key.Audio; used != j.audio && j.audio != "" {
		h.deleteUpload(ctx, j.audio)
	}
	if !j.abandoned && j.key.Audio != "" {
		h.deleteUpload(ctx, j.key.Audio)
	}
}

func (h *Handler) deleteUpload(ctx context.Context, key string) {
	if err := objects.DiscardUpload(ctx, h.cfg.Store, key); err != nil {
		h.cfg.Log.Warn("an upload was left in the bucket", "key", key, "error", err)
	}
}

var safeExtension = regexp.MustCompile(`^\.[a-z0-9]{1,8}$`)

func extension(name string) string {
	if e := strings.ToLower(path.Ext(name)); safeExtension.MatchString(e) {
		return e
	}
	return ""
}

// contentTypeOf returns the type of a part if it is one of sound; workers look at the bytes.
func contentTypeOf(part *multipart.Part) string {
	given, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
	if err == nil && (strings.HasPrefix(given, "audio/") || strings.HasPrefix(given, "video/")) {
		return given
	}
	return "application/octet-stream"
}
