package workersaitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/workersai"
)

// Options of a Server. The zero value enforces the catalogue's limits, answers at once
// and accepts any token.
type Options struct {
	Latency   time.Duration  // before each answer
	Limits    map[string]int // requests per window, by model or kind; the catalogue's limit if absent
	NoLimits  bool
	Window    string        // sliding (default), fixed or bucket
	PerWindow time.Duration // 0 means a minute
	Token     string        // the only accepted token; empty accepts any

	KeepCalls  int // maximum number of logged calls; 0 means 10,000
	KeepBodies int // maximum bytes of all logged bodies; 0 means 64 MiB
}

// Server is the emulator. It is safe for concurrent use.
type Server struct {
	opts Options
	mux  *http.ServeMux

	mu       sync.Mutex
	log      []Request // the last KeepCalls
	gone     int       // number of calls dropped from the log
	bodies   int       // bytes of the bodies in the log
	bodiless int       // number of calls, dropped ones included, without a body
	faults   []*armed
	limits   map[string]*window
	inFlight int
	healed   chan struct{} // closed by Heal
}

// New creates an emulator; there is nothing to close.
func New(o Options) *Server {
	if o.PerWindow == 0 {
		o.PerWindow = time.Minute
	}
	o.KeepCalls, o.KeepBodies = cmp.Or(o.KeepCalls, 10_000), cmp.Or(o.KeepBodies, 64<<20)
	s := &Server{opts: o, mux: http.NewServeMux(), limits: map[string]*window{}, healed: make(chan struct{})}
	s.mux.HandleFunc("GET /_emulator/requests", s.serveLog)
	s.mux.HandleFunc("POST /_emulator/faults", s.serveFault)
	s.mux.HandleFunc("POST /_emulator/reset", func(w http.ResponseWriter, _ *http.Request) { s.Reset() })
	s.mux.HandleFunc("/", s.serveAPI)
	return s
}

// Client returns a client that calls this emulator within the process.
func (s *Server) Client() *workersai.Client {
	token := s.opts.Token
	if token == "" {
		token = "any"
	}
	return &workersai.Client{
		BaseURL: "http://emulator.invalid/client/v4", AccountID: "emulator", Token: token, HTTP: s.HTTPClient(),
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// serveAPI finds the account's part of the path. It ignores anything before it, such as a
// version or a gateway.
func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	_, rest, ok := strings.Cut(r.URL.Path, "/accounts/")
	_, route, ok2 := strings.Cut(rest, "/ai/")
	switch {
	case !ok || !ok2:
		refuse(w, 7000)
	case !s.authorized(r):
		refuse(w, 10000)
	case r.Method == http.MethodGet && route == "models/search":
		s.serveCatalogue(w)
	case r.Method == http.MethodPost && strings.HasPrefix(route, "run/"):
		s.serveRun(w, r, strings.TrimPrefix(route, "run/"))
	default:
		refuse(w, 7000)
	}
}

func (s *Server) authorized(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && (s.opts.Token == "" || token == s.opts.Token)
}

// serveRun handles one inference: log, limits, faults, then the model's answer.
func (s *Server) serveRun(w http.ResponseWriter, r *http.Request, model string) {
	const most = 256 << 20
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	switch {
	case err != nil:
		refuse(w, 3003)
		return
	case len(body) > most:
		refuse(w, 3006)
		return
	}
	row, known := catalogue.Find(model)
	entry, done := s.begin(r, row, model, body)
	defer done()
	fault := s.faultFor(*entry)
	if fault != nil {
		entry.Odd = fault.Odd
	}
	s.mark(entry, fault)
	if fault != nil && fault.before(w, r, s.healing()) {
		s.settle(entry, fault.refusal())
		return
	}
	if !pause(r, s.opts.Latency) {
		return
	}
	answer := s.answer(row, known, r, body)
	if answer.status == http.StatusOK {
		if limited := s.overLimit(row); limited {
			answer = failed(3021)
		}
	}
	if fault != nil && answer.status == http.StatusOK {
		if o := fault.oddity(); o.change != nil {
			answer = o.change(answer)
		}
	}
	s.settle(entry, answer)
	if fault != nil && fault.during(w, r, answer) {
		return
	}
	answer.write(w)
}

// pause waits for d, or until the caller disconnects.
func pause(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-t.C:
		return true
	}
}

// answer is a response: JSON in the envelope, raw bytes, or frames of a stream.
type answer struct {
	status      int
	code        int
	contentType string
	body        []byte
	neurons     float64
	silent      bool   // sends no neurons header, as some models do
	price       string // text of the neurons header, if it is not the price
	edge        bool   // an intermediary answers instead of the API
	location    string // of a redirect
}

func (a answer) write(w http.ResponseWriter) {
	a.head(w)
	w.WriteHeader(a.status)
	if a.contentType != "text/event-stream" {
		_, _ = w.Write(a.body)
		return
	}
	for frame := range bytes.SplitAfterSeq(a.body, []byte("\n\n")) {
		if _, err := w.Write(frame); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
}

func (a answer) head(w http.ResponseWriter) {
	h := w.Header()
	if a.contentType != "" {
		h.Set("Content-Type", a.contentType)
	}
	if a.location != "" {
		h.Set("Location", a.location)
	}
	h.Set("Cf-Ray", strings.ReplaceAll(uuid.NewString(), "-", "")[:16]+"-LIS")
	if a.edge {
		return
	}
	h.Set("Cf-Ai-Req-Id", uuid.NewString())
	h.Set("Cache-Control", "no-store")
	if a.status == http.StatusOK && !a.silent {
		h.Set("Cf-Ai-Neurons", cmp.Or(a.price, fmt.Sprintf("%.4f", a.neurons)))
	}
}

// result wraps a model's answer in the envelope.
func result(v any, neurons float64) answer {
	body, err := json.Marshal(map[string]any{"result": v, "success": true, "errors": []any{}, "messages": []any{}})
	if err != nil {
		return failed(3043)
	}
	return answer{status: http.StatusOK, contentType: "application/json", body: body, neurons: neurons}
}

func (s *Server) serveCatalogue(w http.ResponseWriter) {
	type property struct {
		ID    string `json:"property_id"`
		Value string `json:"value"`
	}
	type task struct {
		Name string `json:"name"`
	}
	type model struct {
		Name       string     `json:"name"`
		Task       task       `json:"task"`
		Properties []property `json:"properties"`
	}
	names := map[string]string{
		"text": "Text Generation", "embedding": "Text Embeddings", "image": "Text-to-Image",
		"transcription": "Automatic Speech Recognition", "translation": "Translation",
	}
	models := []model{}
	for _, m := range catalogue.All() {
		if m.Withdrawn(time.Now()) {
			continue
		}
		row := model{m.ID, task{names[m.Kind]}, []property{}}
		if m.Context > 0 {
			row.Properties = append(row.Properties, property{"context_window", strconv.Itoa(m.Context)})
		}
		if m.WithdrawnOn != "" {
			row.Properties = append(row.Properties, property{"planned_deprecation_date", m.WithdrawnOn})
		}
		models = append(models, row)
	}
	result(models, 0).write(w)
}
