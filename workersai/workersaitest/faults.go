package workersaitest

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"time"
)

// Fault makes matching calls go wrong. The first fault that matches decides; the zero
// Fault matches every call and does nothing.
type Fault struct {
	// Which calls: of this model, of this kind, with this text in the body; empty
	// fields match all.
	Model, Kind, Contains string
	// From and To are the first and last matching call it hits, counted from 1; 0 means
	// no bound.
	From, To int

	Delay      time.Duration // before anything else
	Hang       bool          // no answer until the caller goes away or Heal is called
	Reset      bool          // the connection breaks before the model runs
	Status     int           // answer with Status, Header and Body
	Header     http.Header   // added to the answer
	Body       string
	Code       int  // answer with the API's own refusal of this code
	DropAnswer bool // the model runs and bills, then the connection breaks
	Cut        bool // the true answer breaks off after CutAt bytes
	CutAt      int
	Trickle    time.Duration // between each byte of the true answer
}

type armed struct {
	Fault
	met int
}

// Fault arms a fault.
func (s *Server) Fault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &armed{Fault: f})
}

// Heal forgets the faults. Calls that hang break off.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
	close(s.healed)
	s.healed = make(chan struct{})
}

func (s *Server) healing() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.healed
}

// refusal is what the log says of a call that the fault answered.
func (f *Fault) refusal() answer {
	a := answer{status: f.Status, code: f.Code}
	if a.status == 0 && f.Code != 0 {
		a.status = failed(f.Code).status
	}
	return a
}

func (s *Server) serveFault(w http.ResponseWriter, r *http.Request) {
	var f Fault
	if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
		http.Error(w, "a fault is a JSON object: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.Fault(f)
}

func (s *Server) faultFor(t ticket) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if f.Model != "" && f.Model != t.Model || f.Kind != "" && f.Kind != t.Kind ||
			!strings.Contains(string(t.Body), f.Contains) {
			continue
		}
		if f.met++; f.met >= f.From && (f.To == 0 || f.met <= f.To) {
			return &f.Fault
		}
	}
	return nil
}

// before does what happens instead of the inference; true when that was all.
func (f *Fault) before(w http.ResponseWriter, r *http.Request, healed <-chan struct{}) bool {
	if !pause(r, f.Delay) {
		return true
	}
	maps.Copy(w.Header(), f.Header)
	switch {
	case f.Hang:
		select {
		case <-r.Context().Done():
		case <-healed:
			panic(http.ErrAbortHandler)
		}
	case f.Reset:
		panic(http.ErrAbortHandler)
	case f.Code != 0:
		a := failed(f.Code)
		if f.Status != 0 {
			a.status = f.Status
		}
		a.write(w)
	case f.Status != 0:
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
	default:
		return false
	}
	return true
}

// during breaks the answer of an inference that ran.
func (f *Fault) during(w http.ResponseWriter, r *http.Request, a answer) bool {
	switch {
	case f.DropAnswer:
		panic(http.ErrAbortHandler)
	case f.Cut:
		a.head(w)
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body[:min(f.CutAt, len(a.body))])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case f.Trickle > 0:
		a.head(w)
		w.WriteHeader(a.status)
		for i := range a.body {
			if !pause(r, f.Trickle) {
				return true
			}
			_, _ = w.Write(a.body[i : i+1])
			_ = http.NewResponseController(w).Flush()
		}
		return true
	}
	return false
}
