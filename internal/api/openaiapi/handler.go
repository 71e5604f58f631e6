// Package openaiapi serves the synchronous routes of OpenAI's API: an application changes
// its base URL and keeps its SDK. A request enqueues an interactive task and waits for its
// result. It answers 429 at once when the gate knows that it would wait too long.
package openaiapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// Caller is the sender of a request.
type Caller struct {
	Client *tasks.Client // of the caller's tenant
	Tenant string
	Key    string // the id of the API key, never the key itself; empty without keys
}

// Forecast says how long a new interactive task of a model would wait.
type Forecast struct {
	Reason string        // for people; empty when it would start at once
	Code   string        // of package tasks; may be empty
	Wait   time.Duration // 0 when it would start at once or when that is unknown
	Shut   bool          // it is unknown when it could start: a person must act
}

// Progress is the state of a task, and how long it still waits.
type Progress struct {
	Forecast
	Ended   bool // its result is stored; the other fields are zero
	Calling bool // a call is running
	Missing bool // no worker takes it
}

// Config has the dependencies of the routes. All are required except Stopping and Log.
type Config struct {
	Redis redis.UniversalClient
	Store storage.Store
	// Caller returns the sender of a request. Its error is an *openai.Error for the client.
	Caller   func(r *http.Request) (Caller, error)
	Forecast func(ctx context.Context, kind tasks.Kind, model string) (Forecast, error)
	Progress func(ctx context.Context, c *tasks.Client, id string) (Progress, error)
	// Stopping is closed when the server begins to stop. Requests then end without their
	// result; SDKs repeat them, and another server finds their task.
	Stopping <-chan struct{}
	Log      *slog.Logger // nil discards
	// Parsed is told when a request's task was accepted and its body is no longer needed, before
	// the request waits. Nil does nothing.
	Parsed func(context.Context)
	// WebhookNetworks are networks that webhooks may reach beside public addresses.
	WebhookNetworks fetch.Networks

	MaxFile      int64 // bytes of an uploaded file; 0 means the default
	MaxBatchFile int64 // bytes of the input of a batch; 0 means the default

	maxJSON  int64         // bytes of a JSON body; 0 means the default
	grace    time.Duration // how long a task outlives its client; 0 means the default
	interval time.Duration // between two looks at a waiting task; 0 means the default
	quiet    time.Duration // before and between comments of a stream; 0 means the default
}

// MaxJSON is the most bytes of a JSON body.
const MaxJSON = 8 << 20

const (
	defaultWait = time.Minute
	longestWait = time.Hour
	// grace is how long a task outlives its client, who may only have lost the connection:
	// SDKs send a request again within eight seconds.
	grace    = 15 * time.Second
	interval = 3 * time.Second
	quiet    = 10 * time.Second
	// slack is added to a time limit, for claiming a task and storing its result.
	slack = 30 * time.Second
)

// Handler serves the routes. Close ends it.
type Handler struct {
	cfg    Config
	mux    *http.ServeMux
	closed context.Context
	close  context.CancelFunc
	behind sync.WaitGroup // tasks whose client has gone
	cache  forecasts
}

// New makes the routes. The caller closes the handler after its server has stopped.
func New(cfg Config) *Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Parsed == nil {
		cfg.Parsed = func(context.Context) {}
	}
	setDefault(&cfg.maxJSON, MaxJSON)
	setDefault(&cfg.MaxFile, maxFile)
	setDefault(&cfg.MaxBatchFile, maxBatchFile)
	setDefault(&cfg.grace, grace)
	setDefault(&cfg.interval, interval)
	setDefault(&cfg.quiet, quiet)
	h := &Handler{cfg: cfg, mux: http.NewServeMux()}
	h.closed, h.close = context.WithCancel(context.Background())
	for _, endpoint := range []string{openai.Embeddings, openai.Chat, openai.Images} {
		h.mux.HandleFunc("POST "+endpoint, h.with(h.serveJSON))
	}
	for _, endpoint := range []string{openai.Transcriptions, openai.Translations} {
		h.mux.HandleFunc("POST "+endpoint, h.with(h.serveSpeech))
	}
	h.mux.HandleFunc("GET /v1/models", h.with(h.serveModels))
	h.mux.HandleFunc("GET /v1/models/{id...}", h.with(h.serveModels))
	for _, one := range h.fileRoutes() {
		h.mux.HandleFunc(one.pattern, h.with(one.serve))
	}
	h.mux.HandleFunc("/", h.with(func(*exchange) error { return openai.NotFound() }))
	return h
}

func setDefault[N int64 | time.Duration](n *N, usual N) {
	if *n == 0 {
		*n = usual
	}
}

// fileRoute is a route of files or batches.
type fileRoute struct {
	pattern string
	serve   func(*exchange) error
}

func (h *Handler) fileRoutes() []fileRoute {
	return []fileRoute{
		{"POST /v1/files", h.createFile},
		{"GET /v1/files", h.listFiles},
		{"GET /v1/files/{id}", h.getFile},
		{"DELETE /v1/files/{id}", h.deleteFile},
		{"GET /v1/files/{id}/content", h.fileContent},
		{"POST /v1/batches", h.createBatch},
		{"GET /v1/batches", h.listBatches},
		{"GET /v1/batches/{id}", h.getBatch},
		{"POST /v1/batches/{id}/cancel", h.cancelBatch},
	}
}

// Routes lists the patterns that Handler serves, for the mux of a server.
func Routes() []string {
	var patterns []string
	for _, one := range (*Handler)(nil).fileRoutes() {
		patterns = append(patterns, one.pattern)
	}
	return append(patterns, synchronous()...)
}

func synchronous() []string {
	return []string{
		"POST " + openai.Embeddings, "POST " + openai.Chat, "POST " + openai.Images, "POST " + openai.Transcriptions,
		"POST " + openai.Translations, "GET /v1/models", "GET /v1/models/{id...}",
	}
}

// Buffers reports whether the route of a pattern keeps a JSON body of up to MaxJSON bytes in
// memory.
func Buffers(pattern string) bool {
	return slices.Contains([]string{"POST " + openai.Embeddings, "POST " + openai.Chat, "POST " + openai.Images}, pattern)
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Close ends what runs behind the requests. Tasks whose clients have just gone are left to
// their deadline.
func (h *Handler) Close() {
	h.close()
	h.behind.Wait()
}

// exchange is one request and its response.
type exchange struct {
	w       http.ResponseWriter
	r       *http.Request
	caller  Caller
	maxWait time.Duration
	begun   time.Time
}

// with turns a route into a handler: it finds the caller and writes errors.
func (h *Handler) with(route func(*exchange) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{w: w, r: r, begun: time.Now()}
		id := newRequestID()
		w.Header().Set(requestID, id)
		w.Header().Set("Cache-Control", "no-store")
		err := h.admit(x)
		if err == nil {
			err = route(x)
		}
		refused, ok := errors.AsType[*openai.Error](err)
		switch {
		case err == nil, !ok && r.Context().Err() != nil:
			return
		case !ok:
			h.cfg.Log.Error("an OpenAI request failed", "request", id, "route", r.Pattern, "error", err)
			refused = openai.Internal()
		}
		x.refuse(refused)
	}
}

// admit finds the caller and reads the headers that apply to all routes.
func (h *Handler) admit(x *exchange) (err error) {
	if x.caller, err = h.cfg.Caller(x.r); err != nil {
		return err
	}
	x.maxWait, err = maxWaitOf(x.r.Header.Get("X-Neuronmill-Max-Wait"))
	return err
}

// maxWaitOf reads a number of seconds or a duration such as 90s.
func maxWaitOf(text string) (time.Duration, error) {
	if text == "" {
		return defaultWait, nil
	}
	wait, err := time.ParseDuration(text)
	if err != nil {
		wait, err = time.ParseDuration(text + "s")
	}
	if err != nil || wait < 0 || wait > longestWait {
		return 0, openai.Invalid("X-Neuronmill-Max-Wait", "must be a number of seconds or a duration such as 90s, at most 1h")
	}
	return wait, nil
}

// repeatable is the longest wait after which SDKs send a request again as told; longer
// ones they replace by their own short pauses.
const repeatable = time.Minute

// refuse writes an error.
func (x *exchange) refuse(e *openai.Error) { Refuse(x.w, e, x.begun) }

// Refuse writes an error, and tells SDKs whether and when to send the request again.
func Refuse(w http.ResponseWriter, e *openai.Error, begun time.Time) {
	header := w.Header()
	if e.RetryAfter > 0 {
		header.Set("Retry-After-Ms", strconv.FormatInt(e.RetryAfter.Milliseconds(), 10))
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	if e.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	if e.Status == http.StatusRequestEntityTooLarge || e.Status == http.StatusRequestTimeout {
		header.Set("Connection", "close") // the rest of the body is not read
	}
	if e.Final || e.RetryAfter > repeatable {
		header.Set("X-Should-Retry", "false")
	}
	if header.Get(requestID) == "" {
		header.Set(requestID, newRequestID())
	}
	(&exchange{w: w, begun: begun}).write(e.Status, "application/json", e.Body())
}

const requestID = "X-Request-Id"

func newRequestID() string { return "req_" + uuid.Must(uuid.NewV7()).String() }

// write writes a whole response.
func (x *exchange) write(status int, contentType string, body []byte) {
	header := x.w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("OpenAI-Processing-Ms", strconv.FormatInt(time.Since(x.begun).Milliseconds(), 10))
	x.allowWrite()
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // the client has gone if this fails
}

// patience is how long a client may take to send or receive the next part of a body.
const patience = 30 * time.Second

func (x *exchange) allowWrite() {
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(patience)) // recorders have no deadlines
}

// patientReader gives each part of a body its own time limit, so that a long upload may
// take its time and a silent client may not.
type patientReader struct {
	io.Reader
	control *http.ResponseController
	begun   bool
	part    int64 // bytes since the limit was set
}

// patientPart is how many bytes must arrive in the time.
const patientPart = 64 << 10

func (p *patientReader) Read(b []byte) (int, error) {
	if !p.begun || p.part >= patientPart {
		_ = p.control.SetReadDeadline(time.Now().Add(patience)) // recorders have no deadlines
		p.begun, p.part = true, 0
	}
	n, err := p.Reader.Read(b)
	p.part += int64(n)
	return n, err
}

// body returns the request's body with limits of time and size. done lifts the time limit,
// since the connection is still watched for the client's leaving.
func (x *exchange) body(limit int64) (body io.Reader, done func()) {
	control := http.NewResponseController(x.w)
	return &patientReader{Reader: http.MaxBytesReader(x.w, x.r.Body, limit), control: control}, func() { _ = control.SetReadDeadline(time.Time{}) }
}

// wholeBody reads a body of at most so many bytes. A body that is announced larger is
// refused before it is sent.
func (x *exchange) wholeBody(limit int64) ([]byte, error) {
	if x.r.ContentLength > limit {
		return nil, openai.TooLarge(limit)
	}
	reader, done := x.body(limit)
	defer done()
	var body bytes.Buffer // it grows by doubling; io.ReadAll leaves more garbage behind
	if _, err := body.ReadFrom(reader); err != nil {
		return nil, unreadable(err)
	}
	return body.Bytes(), nil
}

// unreadable turns an error of reading a body into the client's.
func unreadable(err error) error {
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return openai.TooLarge(large.Limit)
	}
	e := openai.Invalid("", "the body could not be read to its end")
	e.Status = http.StatusRequestTimeout
	return e
}

func (h *Handler) serveModels(x *exchange) error {
	var body []byte
	var err error
	if id := x.r.PathValue("id"); id != "" {
		body, err = openai.Model(id)
	} else {
		body, err = openai.Models()
	}
	if err != nil {
		return err
	}
	x.write(http.StatusOK, "application/json", body)
	return nil
}

func (h *Handler) serveJSON(x *exchange) error {
	body, err := x.wholeBody(h.cfg.maxJSON)
	if err != nil {
		return err
	}
	request, err := openai.Parse(x.r.URL.Path, body)
	if err != nil {
		return err
	}
	if request.FileID != "" {
		f, err := h.filesOf(x).Get(x.r.Context(), request.FileID)
		if errors.Is(err, files.ErrNotFound) {
			return openai.Invalid("file", "there is no such file")
		}
		if err != nil {
			return err
		}
		request.SetAudio(h.filesOf(x).Key(f.ID))
	}
	return h.run(x, &job{request: request, digest: digestOf(body)})
}

// openerOf opens artefacts while a request lives.
func (h *Handler) openerOf(ctx context.Context) openai.Opener {
	return func(key string) (io.ReadCloser, error) {
		if key == "" {
			return nil, fmt.Errorf("the result lacks the file: %w", storage.ErrNotFound)
		}
		return h.cfg.Store.Get(ctx, key)
	}
}
