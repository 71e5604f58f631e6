package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/internal/mergepatch"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/tasks"
)

const (
	mostUpload = 2 << 30 // bytes of an upload that is no recording of a task
	mostField  = 64 << 10
	mostFields = 32
)

func (s *Server) uploadRoutes() {
	binary := map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}
	s.handle(route{
		method: http.MethodPost, path: "/v1/transcriptions", scope: keys.TasksWrite, maxBody: -1, contentTypes: []string{"multipart/form-data"},
		doc: &huma.Operation{
			OperationID: "transcribe", Summary: "Uploads a recording and submits its transcription", Tags: []string{"tasks"},
			Description: "multipart/form-data with `file`, and `task`, the JSON of a request as POST /v1/tasks takes it without kind and input.audio: `{\"input\":{\"language\":\"en\"},\"metadata\":{}}`. " +
				"The fields may come in any order. The file goes straight to the bucket, at most 100 MiB.",
			RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}},
		},
	}, s.answer("transcribe", s.transcribe))
	s.handle(route{
		method: http.MethodPut, path: "/v1/uploads", scope: keys.TasksWrite, maxBody: -1,
		doc: &huma.Operation{
			OperationID: "upload", Summary: "Uploads a file for a task", Tags: []string{"tasks"},
			Description: "The body is the file. The answer has its key, for input.audio.key of a transcription. No Content-Length is needed. An upload that nothing names within 24 hours is deleted.",
			RequestBody: &huma.RequestBody{Required: true, Content: binary},
		},
	}, s.answer("upload", s.upload))
}

// answer turns a func with an error into a handler.
func (s *Server) answer(operation string, do func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if err := do(w, req); err != nil {
			s.problem(req.Context(), operation, err).write(w)
		}
	}
}

// uploadBody describes an object that was uploaded.
type uploadBody struct {
	Key         string `json:"key"`
	Bytes       int64  `json:"bytes"`
	ContentType string `json:"content_type"`
}

func (s *Server) upload(w http.ResponseWriter, req *http.Request) error {
	contentType, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil {
		contentType = "application/octet-stream"
	}
	if req.ContentLength > mostUpload {
		return newProblem(codeBodyTooLarge, "An upload has at most 2 GiB.")
	}
	key := uploadKey(callerOf(req.Context()).tenant, "")
	n, err := s.store(req.Context(), key, http.MaxBytesReader(w, req.Body, mostUpload), contentType)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, uploadBody{key, n, contentType})
}

// uploadKey returns a new object key. Nothing of the caller's is in it but a plain ending.
func uploadKey(tenant, name string) string {
	ending := strings.ToLower(path.Ext(name))
	if !plainEnding.MatchString(ending) {
		ending = ""
	}
	return objects.NewUploadKey(tenant, ending)
}

var plainEnding = regexp.MustCompile(`^\.[a-z0-9]{1,8}$`)

// store streams a body to the bucket. An error leaves nothing behind.
func (s *Server) store(ctx context.Context, key string, body io.Reader, contentType string) (int64, error) {
	from := &counted{Reader: body}
	if err := objects.MarkUpload(ctx, s.cfg.Store, key); err != nil {
		return 0, err
	}
	err := s.cfg.Store.Put(ctx, key, from, contentType)
	switch {
	case from.err != nil:
		err = brokenBody(from.err)
	case err != nil:
		err = fmt.Errorf("store the upload: %w", err)
	case from.n == 0:
		err = newProblem(codeEmptyBody, "The file is empty.")
	}
	if err != nil {
		s.discard(ctx, key)
	}
	return from.n, err
}

// discard deletes an upload that no task will use.
func (s *Server) discard(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := objects.DiscardUpload(ctx, s.cfg.Store, key); err != nil {
		s.log.Warn("an upload was left in the bucket", "key", key, "error", err)
	}
}

// brokenBody explains an error of reading a body.
func brokenBody(err error) *Problem {
	var tooLarge *http.MaxBytesError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &tooLarge):
		return newProblem(codeBodyTooLarge, "")
	case errors.As(err, &timeout) && timeout.Timeout():
		return newProblem(codeBodyTooSlow, "")
	}
	return newProblem(codeBodyBroken, "")
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

// transcribe reads the parts of a form in any order. The recording goes straight to the
// bucket; a refused request leaves nothing there.
func (s *Server) transcribe(w http.ResponseWriter, req *http.Request) error {
	ctx := req.Context()
	_, parameters, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || parameters["boundary"] == "" {
		return newProblem(codeContentType, "Send Content-Type: multipart/form-data with a boundary.")
	}
	wait, problem := preferredWait(req.Header.Get("Prefer"))
	if problem != nil {
		return problem
	}
	const most = media.AudioLimit + mostField*mostFields
	if req.ContentLength > most {
		return newProblem(codeBodyTooLarge, "A recording has at most 100 MiB.")
	}
	body := http.MaxBytesReader(w, req.Body, most)
	sum := sha256.New()
	audio, document, err := s.readForm(ctx, multipart.NewReader(body, parameters["boundary"]), sum)
	keep := false
	defer func() {
		if audio != "" && !keep {
			s.discard(ctx, audio)
		}
	}()
	if err != nil {
		return err
	}
	request, problem := s.transcription(document, audio)
	if problem != nil {
		return problem
	}
	sum.Write(document)
	request.Metadata = maps.Clone(request.Metadata)
	if request.Metadata == nil {
		request.Metadata = map[string]string{}
	}
	request.Metadata[uploadDigest] = hex.EncodeToString(sum.Sum(nil))
	out, err := s.submitOne(ctx, request, req.Header.Get("Idempotency-Key"), wait)
	if p, same := s.sameUpload(ctx, err, request.Metadata[uploadDigest]); same {
		w.Header().Set("Location", p.URLs.Self)
		w.Header().Set("Idempotent-Replayed", "true")
		return writeJSON(w, http.StatusAccepted, p)
	}
	if err != nil {
		// The task may run after an unknown outcome, so its recording stays.
		keep = problemCode(err) == tasks.CodeUnknownOutcome
		return err
	}
	keep = true
	h := w.Header()
	for name, value := range map[string]string{"Location": out.Location, "ETag": out.ETag, "Idempotent-Replayed": out.Replayed, "Preference-Applied": out.PreferenceApplied} {
		if value != "" {
			h.Set(name, value)
		}
	}
	return writeJSON(w, out.Status, out.Body)
}

// uploadDigest is the metadata with the digest of a recording and the fields beside it.
// Each upload has a key of its own, so the digest of the task cannot tell whether a
// request with the same idempotency key is the same.
const uploadDigest = "upload_digest"

// sameUpload finds the task of the same upload, after an idempotency key was refused.
func (s *Server) sameUpload(ctx context.Context, err error, digest string) (taskBody, bool) {
	var p *Problem
	if !errors.As(err, &p) || p.Code != tasks.CodeIdempotencyMismatch || p.task == "" {
		return taskBody{}, false
	}
	body, err := s.taskOf(ctx, s.client(callerOf(ctx).tenant), p.task)
	return body, err == nil && body.Metadata[uploadDigest] == digest
}

func problemCode(err error) string {
	p, _ := problemOf(err)
	return p.Code
}

// readForm stores the part "file" and returns its key, also beside an error, and the part
// "task".
func (s *Server) readForm(ctx context.Context, parts *multipart.Reader, sum io.Writer) (audio string, document []byte, err error) {
	missing := func(field, message string) error {
		return newProblem(tasks.CodePayloadInvalid, "", FieldError{Field: field, Message: message})
	}
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF) && audio == "":
			return "", nil, missing("file", "is missing; send the recording as a file")
		case errors.Is(err, io.EOF):
			return audio, document, nil
		case err != nil:
			return audio, nil, brokenBody(err)
		case n == mostFields:
			return audio, nil, missing("", "the form has too many fields")
		}
		switch part.FormName() {
		case "file":
			if audio != "" {
				return audio, nil, missing("file", "is given twice")
			}
			key := uploadKey(callerOf(ctx).tenant, part.FileName())
			start := make([]byte, 512)
			size, err := io.ReadFull(part, start)
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				return "", nil, brokenBody(err)
			}
			contentType, ok := media.Audio(start[:size])
			if !ok {
				return "", nil, newProblem(tasks.CodeUnsupportedMedia, "", FieldError{Field: "file", Message: "is empty or not in a known format of audio"})
			}
			if _, err := s.store(ctx, key, io.TeeReader(io.MultiReader(bytes.NewReader(start[:size]), part), sum), contentType); err != nil {
				return "", nil, err
			}
			audio = key
		case "task":
			document, err = io.ReadAll(io.LimitReader(part, mostField+1))
			if err != nil {
				return audio, nil, brokenBody(err)
			}
			if len(document) > mostField {
				return audio, nil, newProblem(codeBodyTooLarge, "The field task takes at most 64 KiB.")
			}
		default:
			return audio, nil, newProblem(codeUnknownField, "", FieldError{Field: safeField(part.FormName(), nil), Message: "no such field; there are file and task", Code: codeUnknownField})
		}
	}
}

// transcription makes the request of an uploaded recording.
func (s *Server) transcription(document []byte, audio string) (taskRequest, *Problem) {
	if len(document) == 0 {
		document = []byte("{}")
	}
	var parsed any
	if err := strictJSON.Unmarshal(document, &parsed); err != nil {
		return taskRequest{}, humaProblem(nil, http.StatusBadRequest, "", &huma.ErrorDetail{Location: "body", Message: err.Error()})
	}
	addition, err := json.Marshal(map[string]any{"kind": tasks.KindTranscription, "input": map[string]any{"audio": map[string]any{"key": audio}}})
	if err != nil {
		return taskRequest{}, newProblem(tasks.CodeInternalError, "")
	}
	patched, err := mergepatch.Apply(document, addition)
	if err != nil {
		return taskRequest{}, newProblem(codeExpectedObject, "The field task "+err.Error()+".")
	}
	return s.decodeTask(patched)
}

// writeJSON answers with a body.
func writeJSON(w http.ResponseWriter, status int, body any) error {
	document, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(document, '\n'))
	return nil
}
