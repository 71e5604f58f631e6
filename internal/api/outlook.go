package api

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/tasks"
)

// wouldWait refuses a task that the gate would make wait longer than its caller wants.
func (s *Server) wouldWait(ctx context.Context, r taskRequest, maxWait time.Duration) (*Problem, error) {
	if maxWait == 0 {
		return nil, nil
	}
	w, err := s.outlook(ctx, r)
	if err != nil {
		return nil, err
	}
	switch {
	case w.Missing:
		return newProblem(codeWouldWait, "Nobody can do the task: "+w.Workers+".").retryAfter(time.Minute), nil
	case w.Turn > maxWait:
		text := fmt.Sprintf("It would wait about %s: %s.", w.Turn.Round(time.Second), w.String())
		return newProblem(codeWouldWait, text).retryAfter(w.Turn - maxWait), nil
	}
	return nil, nil
}

func (s *Server) outlook(ctx context.Context, r taskRequest) (monitor.Waiting, error) {
	spec, _ := tasks.SpecOf(r.Kind)
	return s.monitor.Outlook(ctx, s.cfg.Gate, r.Kind, r.Lane, cmp.Or(r.Model, spec.Model()), 0)
}

// outlookFor is how long the outlook of a queue and model may be used again: the answers
// to many new tasks share it.
const outlookFor = 250 * time.Millisecond

type recentOutlook struct {
	monitor.Waiting
	read time.Time
}

// recentOutlook is how long a new task waits. own is how many of the tasks in its queue are not
// before it: 1 if it was just accepted.
func (s *Server) recentOutlook(ctx context.Context, r tasks.Receipt, own int) (monitor.Waiting, error) {
	name := fmt.Sprint(tasks.Queue(r.Kind, r.Lane), " ", r.Model, " ", own)
	s.mu.Lock()
	recent, ok := s.outlooks[name]
	s.mu.Unlock()
	if ok && time.Since(recent.read) < outlookFor {
		return recent.Waiting, nil
	}
	w, err := s.monitor.Outlook(ctx, s.cfg.Gate, r.Kind, r.Lane, r.Model, own)
	if err != nil {
		return w, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.outlooks) > 1000 {
		clear(s.outlooks)
	}
	s.outlooks[name] = recentOutlook{w, time.Now()}
	return w, nil
}
