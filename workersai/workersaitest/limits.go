package workersaitest

import (
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// window counts the calls of one model. It supports the kinds of limiter that the API may
// use.
type window struct {
	calls  []time.Time // sliding: calls of the last window
	start  time.Time   // fixed: start of the current window
	used   int
	tokens float64 // bucket
	last   time.Time
}

// overLimit counts a call and reports whether it exceeds the limit. Refused calls do not
// count.
func (s *Server) overLimit(row catalogue.Model) bool {
	limit := row.PerMinute
	for _, name := range []string{row.Kind, row.ID} {
		if n, ok := s.opts.Limits[name]; ok {
			limit = n
		}
	}
	if s.opts.NoLimits || row.ID == "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.limits[row.ID]
	if w == nil {
		w = &window{tokens: float64(limit), last: time.Now()}
		s.limits[row.ID] = w
	}
	switch s.opts.Window {
	case "fixed":
		return w.fixed(time.Now(), limit, s.opts.PerWindow)
	case "bucket":
		return w.bucket(time.Now(), limit, s.opts.PerWindow)
	}
	return w.sliding(time.Now(), limit, s.opts.PerWindow)
}

func (w *window) sliding(now time.Time, limit int, span time.Duration) bool {
	for len(w.calls) > 0 && now.Sub(w.calls[0]) >= span {
		w.calls = w.calls[1:]
	}
	if len(w.calls) >= limit {
		return true
	}
	w.calls = append(w.calls, now)
	return false
}

func (w *window) fixed(now time.Time, limit int, span time.Duration) bool {
	if start := now.Truncate(span); !start.Equal(w.start) {
		w.start, w.used = start, 0
	}
	if w.used >= limit {
		return true
	}
	w.used++
	return false
}

func (w *window) bucket(now time.Time, limit int, span time.Duration) bool {
	w.tokens = min(float64(limit), w.tokens+float64(limit)*float64(now.Sub(w.last))/float64(span))
	w.last = now
	if w.tokens < 1 {
		return true
	}
	w.tokens--
	return false
}
