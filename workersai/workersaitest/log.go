package workersaitest

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Request is one inference that was asked for.
type Request struct {
	At       time.Time
	Model    string
	Kind     string // of the model; empty when it is unknown
	Header   http.Header
	Body     []byte // its first 64 KiB
	Texts    int    // embedding texts in it
	Status   int    // 0 while it runs, or when no answer went out
	Code     int    // of the refusal; 0 when it succeeded
	Billed   bool   // the inference ran, whether or not its answer arrived
	Neurons  float64
	InFlight int // calls under way when it came, itself included
}

// Requests gives a copy of the log so far, in the order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Reset forgets log, faults and windows.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.faults, s.limits = nil, nil, map[string]*window{}
}

// ticket is the place of a running request in the log.
type ticket struct {
	Request
	index int
}

func (s *Server) begin(r *http.Request, row catalogue.Model, model string, body []byte) (*ticket, func()) {
	header := r.Header.Clone()
	header.Set("Authorization", "***")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight++
	t := &ticket{index: len(s.log), Request: Request{
		At: time.Now(), Model: model, Kind: row.Kind, Header: header,
		Body: body[:min(len(body), 64<<10)], Texts: countTexts(body, row), InFlight: s.inFlight,
	}}
	s.log = append(s.log, t.Request)
	return t, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inFlight--
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
	if t.index >= len(s.log) {
		return // the log was reset meanwhile
	}
	e := &s.log[t.index]
	e.Status, e.Code, e.Neurons, e.Billed = a.status, a.code, a.neurons, a.status == http.StatusOK
}

// serveLog gives the log to other processes, a JSON object a line.
func (s *Server) serveLog(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/jsonl")
	encoder := json.NewEncoder(w)
	for _, r := range s.Requests() {
		if encoder.Encode(r) != nil {
			return
		}
	}
}
