package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/tasks"
)

func (s *Server) resultRoute() {
	binary := &huma.MediaType{Schema: &huma.Schema{Type: "string", Format: "binary"}}
	s.handle(route{
		method: http.MethodGet, path: "/v1/tasks/{id}/result", scope: keys.TasksRead,
		doc: &huma.Operation{
			OperationID: "getResult", Summary: "Gives the result of a task", Tags: []string{"tasks"},
			Description: "The result document as JSON, or of an image the image. `?format=json` chooses the document, `?format=vtt` the file of that ending or name. Files take Range. `?link=true` answers with a link to it in the bucket instead, good for 15 minutes. 409 until the task has ended.",
			Parameters: []*huma.Param{
				{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: "string"}},
				{Name: "format", In: "query", Schema: &huma.Schema{Type: "string"}, Description: "json, or the ending or name of a file."},
				{Name: "link", In: "query", Schema: &huma.Schema{Type: "boolean"}, Description: "Answer with a link to the bucket: method, url, expires_at, bytes, content_type."},
			},
			Responses: map[string]*huma.Response{"200": {Description: "The document or the file.", Content: map[string]*huma.MediaType{"application/json": binary, "application/octet-stream": binary}}},
		},
	}, s.serveResult)
}

func (s *Server) serveResult(w http.ResponseWriter, req *http.Request) {
	problem := s.writeResult(w, req)
	if problem != nil {
		s.problem(req.Context(), "getResult", problem).write(w)
	}
}

func (s *Server) writeResult(w http.ResponseWriter, req *http.Request) error {
	ctx := req.Context()
	info, err := s.find(ctx, s.client(callerOf(ctx).tenant), req.PathValue("id"))
	switch {
	case err != nil:
		return err
	case info.Result == nil:
		return newProblem(codeNotEnded, "")
	}
	r := info.Result
	format := req.URL.Query().Get("format")
	link, err := booleanParameter(req, "link")
	if err != nil {
		return err
	}
	writeArtefact := func(a tasks.Artefact) error {
		if link {
			return s.writeLink(w, req, a.Key)
		}
		return s.writeArtefact(w, req, a, r.FinishedAt)
	}
	if format == "" && r.Kind == tasks.KindImage && r.Status == tasks.Completed && len(r.Artefacts) > 0 {
		return writeArtefact(r.Artefacts[0])
	}
	if format == "" || format == "json" {
		if link {
			return s.writeLink(w, req, objects.ResultKey(callerOf(ctx).tenant, r.ID))
		}
		document, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
		sum := sha256.Sum256(document)
		return s.serveContent(w, req, "application/json", hex.EncodeToString(sum[:16]), r.FinishedAt, bytes.NewReader(append(document, '\n')))
	}
	for _, a := range r.Artefacts {
		if name := path.Base(a.Key); name == format || strings.TrimPrefix(path.Ext(name), ".") == format {
			return writeArtefact(a)
		}
	}
	names := map[string]bool{"json": true}
	for _, a := range r.Artefacts {
		names[path.Base(a.Key)] = true
	}
	return newProblem(codeParameter, "", FieldError{Field: "format", Message: "there are " + strings.Join(slices.Sorted(maps.Keys(names)), ", ")})
}

// booleanParameter reads a parameter that is true or false; false by default.
func booleanParameter(req *http.Request, name string) (bool, error) {
	text := req.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	set, err := strconv.ParseBool(text)
	if err != nil {
		return false, newProblem(codeParameter, "", FieldError{Field: name, Message: "must be true or false"})
	}
	return set, nil
}

func (s *Server) writeArtefact(w http.ResponseWriter, req *http.Request, a tasks.Artefact, at time.Time) error {
	if _, err := s.cfg.Store.Head(req.Context(), a.Key); err != nil {
		return fmt.Errorf("look for a file of the result: %w", err)
	}
	content := objects.NewSeeker(req.Context(), s.cfg.Store, a.Key, a.Bytes)
	defer content.Close()
	return s.serveContent(w, req, a.ContentType, a.SHA256, at, content)
}

// serveContent answers conditional requests and requests of one range.
func (s *Server) serveContent(w http.ResponseWriter, req *http.Request, contentType, tag string, at time.Time, content io.ReadSeeker) error {
	if strings.Contains(req.Header.Get("Range"), ",") {
		return newProblem(codeRange, "")
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "private, no-cache") // it never changes, but a key may be revoked
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	http.ServeContent(&rangeProblem{ResponseWriter: w}, req, "", at, content)
	return nil
}

// rangeProblem turns the plain text of http.ServeContent about a range into a problem.
type rangeProblem struct {
	http.ResponseWriter
	refused bool
}

func (w *rangeProblem) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	newProblem(codeRange, "").write(w.ResponseWriter)
}

func (w *rangeProblem) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}
