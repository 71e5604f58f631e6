package workersaitest

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault makes matching calls fail. The first matching fault applies. The zero Fault
// matches every call and does nothing.
type Fault struct {
	// Which calls: of this model, of this kind, with this text in the body. An empty
	// field matches all.
	Model, Kind, Contains string
	// From and To are the first and last matching call that fails, counted from 1. 0
	// means no bound.
	From, To int

	Delay      time.Duration // before anything else
	Hang       bool          // no answer until the caller disconnects or Heal is called
	Reset      bool          // the connection breaks before the model runs
	Status     int           // answer with Status, Header and Body
	Header     http.Header   // added to the answer
	Body       string
	Code       int  // answer with the API's own refusal of this code
	DropAnswer bool // the model runs and bills, then the connection breaks
	Cut        bool // the normal answer is cut off after CutAt bytes
	CutAt      int
	Trickle    time.Duration // pause before each byte of the normal answer
	Odd        string        // name of the Oddity of the answer
}

type armed struct {
	Fault
	met int
}

// Fault adds a fault. It panics if Odd is not the name of an Oddity.
func (s *Server) Fault(f Fault) {
	if f.Odd != "" {
		if _, err := oddityOf(f.Odd); err != nil {
			panic("workersaitest: " + err.Error())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &armed{Fault: f})
}

// Heal removes all faults. Hanging calls break off.
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

// oddity returns the fault's Oddity, or the zero Oddity.
func (f *Fault) oddity() Oddity {
	o, _ := oddityOf(f.Odd)
	return o
}

// refusal returns status and code for the log of a call that the fault answered.
func (f *Fault) refusal() answer {
	if o := f.oddity(); o.said.status != 0 && f.Code == 0 && f.Status == 0 {
		return o.said
	}
	a := answer{status: f.Status, code: f.Code}
	if a.status == 0 && f.Code != 0 {
		a.status = failed(f.Code).status
	}
	a.neurons, _ = strconv.ParseFloat(f.Header.Get("Cf-Ai-Neurons"), 64) // the price in the fault's answer
	return a
}

func (s *Server) serveFault(w http.ResponseWriter, r *http.Request) {
	var f Fault
	if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
		http.Error(w, "a fault is a JSON object: "+err.Error(), http.StatusBadRequest)
		return
	}
	if _, err := oddityOf(f.Odd); f.Odd != "" && err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
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

// before applies the faults that replace the inference; true if the call is done.
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
	case f.oddity().said.status != 0:
		f.oddity().said.write(w)
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
