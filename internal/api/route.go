package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/tasks"
)

const (
	keyScheme   = "key"            // name of the security scheme in the document
	mostBody    = 1 << 20          // bytes of a JSON body
	bodyTime    = 30 * time.Second // in which a JSON body must arrive
	handlerTime = 90 * time.Second // in which a JSON route must answer; the longest wait is below
	streamPart  = 64 << 10         // bytes of a streamed body that must arrive in partTime
	partTime    = 30 * time.Second
	writeTime   = 30 * time.Second // in which one write to the caller must succeed
	drainTime   = 5 * time.Second  // in which the rest of a body must arrive that no handler has read
)

// route describes a route that Server.handle registers.
type route struct {
	method, path string
	scope        keys.Scope // empty means that everybody may call it, without a key
	// maxBody is the most bytes of the body; 0 means none may come, -1 means no limit, for
	// a handler that streams it.
	maxBody int64
	// buffered is the most bytes of the body that a handler with no limit of its own keeps in
	// memory; 0 means that it streams.
	buffered int64
	// contentTypes are the types of body that the route takes; none means any.
	contentTypes []string
	// fail answers with a problem in the envelope of the surface; nil means problem+json.
	fail func(http.ResponseWriter, *http.Request, *Problem)
	// doc documents the route. Method, path and security are filled in. nil keeps it out of
	// the document.
	doc *huma.Operation
}

// handle registers a route with a handler of its own, which streams or has its own
// envelope.
func (s *Server) handle(r route, handler http.HandlerFunc) {
	if r.doc != nil {
		doc := *r.doc
		doc.Method, doc.Path = r.method, r.path
		s.describe(&doc, r.scope)
		s.api.OpenAPI().AddOperation(&doc)
	}
	s.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) {
		ctx, problem := s.admit(w, req, r)
		if problem != nil {
			r.refuse(w, req, problem)
			return
		}
		req = req.WithContext(ctx)
		if r.buffered > 0 {
			ctx, release, problem := s.memory.reserve(req, r.buffered)
			if problem != nil {
				r.refuse(w, req, problem)
				return
			}
			defer release()
			req = req.WithContext(ctx)
		}
		handler(w, req)
	})
}

func (r route) refuse(w http.ResponseWriter, req *http.Request, p *Problem) {
	if r.fail == nil {
		p.write(w)
		return
	}
	r.fail(w, req, p)
}

// jsonRoute registers a route whose input and output are JSON; see package huma for the
// tags of I and O. A body is in the field Body of I.
func jsonRoute[I, O any](s *Server, scope keys.Scope, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	input := reflect.TypeFor[I]()
	r := route{method: op.Method, path: op.Path, scope: scope}
	if _, ok := input.FieldByName("Body"); ok {
		r.maxBody, r.contentTypes = mostBody, []string{"application/json", "application/merge-patch+json"}
		r.maxBody = cmp.Or(op.MaxBodyBytes, r.maxBody)
		op.MaxBodyBytes = r.maxBody + 1 // huma refuses a body of exactly its limit
	}
	op.BodyReadTimeout = -1 // admit limits the time, and ends the limit with the body
	op.Metadata = map[string]any{metadataNames: fieldNames(input)}
	op.Middlewares = append(huma.Middlewares{func(c huma.Context, next func(huma.Context)) {
		req, w := humago.Unwrap(c)
		ctx, problem := s.admit(w, req, r)
		if problem != nil {
			problem.write(w)
			return
		}
		ctx, release, problem := s.memory.reserve(req.WithContext(ctx), r.maxBody)
		if problem != nil {
			problem.write(w)
			return
		}
		defer release()
		ctx, cancel := context.WithTimeout(ctx, handlerTime)
		defer cancel()
		next(huma.WithContext(c, ctx))
	}}, op.Middlewares...)
	s.describe(&op, scope)
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, op.OperationID, err)
		}
		return out, nil
	})
}

// problem turns an error into its problem and logs its cause. It never returns nil.
func (s *Server) problem(ctx context.Context, operation string, err error) *Problem {
	p, cause := problemOf(err)
	if cause != nil && ctx.Err() == nil {
		s.log.Warn("request failed", "operation", operation, "code", p.Code, "error", cause)
	}
	return p
}

// describe completes the document of an operation.
func (s *Server) describe(op *huma.Operation, scope keys.Scope) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	if op.Responses["default"] == nil && len(op.Errors) == 0 {
		op.Responses["default"] = &huma.Response{
			Description: "A problem; /docs/errors explains its code.",
			Content: map[string]*huma.MediaType{"application/problem+json": {
				Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem"),
			}},
		}
	}
	op.Security = []map[string][]string{}
	if scope != "" {
		op.Security = append(op.Security, map[string][]string{keyScheme: {}})
		op.Description = strings.TrimSpace(op.Description + "\n\nNeeds a key with the scope `" + string(scope) + "`.")
	}
}

// admit checks a request before its handler runs: headers, key, scope, limits. It returns
// the context of the handler, or a problem.
func (s *Server) admit(w http.ResponseWriter, req *http.Request, r route) (context.Context, *Problem) {
	ctx := req.Context()
	if r.scope != "" {
		caller, problem := s.authenticate(req)
		if problem != nil {
			return nil, problem
		}
		if !caller.allows(r.scope) {
			return nil, newProblem(codeScope, "The key lacks the scope "+string(r.scope)+".")
		}
		ctx = context.WithValue(ctx, callerKey{}, caller)
	}
	if problem := checkBody(req, r); problem != nil {
		return nil, problem
	}
	limitBody(w, req, r)
	return ctx, nil
}

// checkBody refuses a body by its headers, before any of it is read.
func checkBody(req *http.Request, r route) *Problem {
	has := req.ContentLength != 0 && req.Body != nil && req.Body != http.NoBody
	switch {
	case r.maxBody >= 0 && req.ContentLength > r.maxBody:
		return newProblem(codeBodyTooLarge, fmt.Sprintf("The route takes at most %d bytes.", r.maxBody))
	case r.maxBody == 0 || !has:
		return nil
	}
	if encoding := req.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return newProblem(codeCompressed, "")
	}
	if len(r.contentTypes) == 0 {
		return nil
	}
	found, parameters, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err == nil {
		for _, wanted := range r.contentTypes {
			if found == wanted && (parameters["charset"] == "" || strings.EqualFold(parameters["charset"], "utf-8")) {
				return nil
			}
		}
	}
	return newProblem(codeContentType, "Send Content-Type: "+r.contentTypes[0]+"; text is UTF-8.")
}

// limitBody makes a body end in an error when it is too large or too slow.
func limitBody(w http.ResponseWriter, req *http.Request, r route) {
	if req.Body == nil || req.Body == http.NoBody {
		return
	}
	timed := &timedBody{ReadCloser: req.Body, control: http.NewResponseController(w), rolling: r.maxBody < 0}
	req.Body = timed
	if r.maxBody >= 0 {
		req.Body = http.MaxBytesReader(w, timed, r.maxBody+1)
	}
}

// timedBody ends a body that arrives too slowly: a small one that takes longer than
// bodyTime, a streamed one of which fewer than streamPart bytes arrive in partTime.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	rolling bool
	begun   bool
	part    int64 // bytes since the deadline was set
}

func (b *timedBody) Read(p []byte) (int, error) {
	if !b.begun || b.rolling && b.part >= streamPart {
		most := bodyTime
		if b.rolling {
			most = partTime
		}
		_ = b.control.SetReadDeadline(time.Now().Add(most)) // not supported by recorders of tests
		b.begun, b.part = true, 0
	}
	n, err := b.ReadCloser.Read(p)
	b.part += int64(n)
	// A deadline that is left would end the context of a handler that waits. After any other
	// error it stays, because huma and net/http read the rest when they close the body.
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	timed := &timedWriter{ResponseWriter: w, control: http.NewResponseController(w)}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	defer boundDrain(timed, req)
	defer s.recover(timed, req)
	if problem := s.checkOrigin(req); problem != nil {
		problem.write(timed)
		return
	}
	if p := req.URL.Path; path.Clean(p) != p && p != "/" && !s.isDashboard(p) {
		newProblem(codeRouteNotFound, "").write(timed)
		return
	}
	handler, pattern := s.mux.Handler(req)
	if pattern == "" { // the answers of ServeMux are plain text
		noRoute(handler, timed, req)
		return
	}
	s.cfg.Tracer.Wrap(s.mux).ServeHTTP(timed, req)
}

// boundDrain limits how long net/http waits for the rest of a body after the answer: it
// reads up to 256 KiB of it to keep the connection, by itself without a time limit.
func boundDrain(w *timedWriter, req *http.Request) {
	if req.Body != nil && req.Body != http.NoBody {
		_ = w.control.SetReadDeadline(time.Now().Add(drainTime)) // not supported by recorders of tests
	}
}

// noRoute answers a request that no route takes: 405 with the methods that there are, else
// 404.
func noRoute(handler http.Handler, w http.ResponseWriter, req *http.Request) {
	seen := &discarded{header: http.Header{}}
	handler.ServeHTTP(seen, req)
	if seen.status == http.StatusMethodNotAllowed {
		newProblem(codeMethod, "").with("Allow", seen.header.Get("Allow")).write(w)
		return
	}
	newProblem(codeRouteNotFound, "").write(w)
}

// discarded keeps the status and the headers of an answer.
type discarded struct {
	header http.Header
	status int
}

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d *discarded) WriteHeader(status int)      { d.status = status }

// recover answers for a handler that panicked.
func (s *Server) recover(w *timedWriter, req *http.Request) {
	r := recover()
	switch err, _ := r.(error); {
	case r == nil:
		return
	case errors.Is(err, http.ErrAbortHandler):
		panic(r)
	case w.lost: // the caller has gone, and huma panics when it cannot write
		return
	}
	s.log.Error("handler panicked", "method", req.Method, "pattern", req.Pattern, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	if !w.begun {
		newProblem(tasks.CodeInternalError, "Look for this request in the server's log, and report it.").write(w)
	}
}

// timedWriter gives each write to the caller its own deadline. A deadline for the whole
// answer would cut streams.
type timedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	begun   bool // the header was written
	lost    bool // a write failed: the caller has gone or is too slow
	empty   bool // the status allows no body; writes are dropped
}

// Unwrap is for http.ResponseController.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *timedWriter) WriteHeader(status int) {
	w.begun = true
	if w.empty = status == http.StatusNotModified || status == http.StatusNoContent; w.empty {
		w.Header().Del("Content-Type")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *timedWriter) Write(b []byte) (int, error) {
	w.begun = true
	if w.empty {
		return len(b), nil
	}
	_ = w.control.SetWriteDeadline(time.Now().Add(writeTime)) // not supported by recorders of tests
	n, err := w.ResponseWriter.Write(b)
	w.lost = w.lost || err != nil
	return n, err
}
