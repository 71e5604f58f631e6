package workersaitest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Request is one requested inference.
type Request struct {
	At       time.Time
	Model    string
	Kind     string // of the model; empty when unknown
	Header   http.Header
	Body     []byte // first 64 KiB; dropped from old calls, see Options.KeepBodies
	Texts    int    // number of embedding texts
	Status   int    // 0 while it runs, or if no answer was sent
	Code     int    // of the refusal; 0 on success
	Billed   bool   // the inference ran, whether or not its answer arrived
	Lossy    bool   // a fault prevented a complete answer
	Neurons  float64
	InFlight int    // concurrent calls on arrival, including this one
	Odd      string // name of the Oddity of its answer
}

// Requests returns a copy of the log in the order of arrival: the last Options.KeepCalls.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Reset clears the log, the faults and the windows of the limits.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone += len(s.log)
	s.log, s.bodies, s.bodiless = nil, 0, s.gone
	s.faults, s.limits = nil, map[string]*window{}
}

// ticket identifies a running request in the log.
type ticket struct {
	Request
	number int // number of the call since the server started
}

func (s *Server) begin(r *http.Request, row catalogue.Model, model string, body []byte) (*ticket, func()) {
	header := r.Header.Clone()
	header.Set("Authorization", "***")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight++
	const cut = 64 << 10
	t := &ticket{number: s.gone + len(s.log), Request: Request{
		At: time.Now(), Model: model, Kind: row.Kind, Header: header,
		Body: bytes.Clone(body[:min(len(body), cut)]), Texts: countTexts(body, row), InFlight: s.inFlight,
	}}
	s.log = append(s.log, t.Request)
	s.bodies += len(t.Body)
	s.forget()
	return t, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inFlight--
	}
}

// forget drops the oldest bodies and calls that exceed the bounds of the log.
func (s *Server) forget() {
	for ; s.bodies > s.opts.KeepBodies; s.bodiless++ {
		oldest := &s.log[s.bodiless-s.gone]
		s.bodies -= len(oldest.Body)
		oldest.Body = nil
	}
	for len(s.log) > s.opts.KeepCalls {
		s.bodies -= len(s.log[0].Body)
		s.log[0] = Request{}
		s.log = s.log[1:]
		s.gone++
		s.bodiless = max(s.bodiless, s.gone)
	}
}

// mark records in the log that a fault will lose the answer. It runs before the fault
// does.
func (s *Server) mark(t *ticket, f *Fault) {
	if f == nil || !f.Reset && !f.Hang && !f.DropAnswer && !f.Cut {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.number >= s.gone {
		s.log[t.number-s.gone].Lossy = true
	}
}

func countTexts(body []byte, row catalogue.Model) int {
	if row.Kind != "embedding" {
		return 0
	}
	var in struct {
		Text texts `json:"text"`
	}
	_ = json.Unmarshal(body, &in)
	return len(in.Text)
}

func (s *Server) settle(t *ticket, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.number < s.gone {
		return // the log has dropped it meanwhile
	}
	e := &s.log[t.number-s.gone]
	e.Odd = t.Odd
	e.Status, e.Code, e.Neurons, e.Billed = a.status, a.code, a.neurons, a.status == http.StatusOK && a.code == 0
}

// serveLog serves the log to other processes, one JSON object per line.
func (s *Server) serveLog(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/jsonl")
	encoder := json.NewEncoder(w)
	for _, r := range s.Requests() {
		if encoder.Encode(r) != nil {
			return
		}
	}
}
