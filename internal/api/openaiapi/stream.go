package openaiapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/tasks"
)

// streamed writes the response as server-sent events. The status goes out with the first
// comment or chunk, so an error that comes soon still has its own status.
type streamed struct {
	h     *Handler
	x     *exchange
	j     *job
	begun bool
}

func (s *streamed) send(text string) error {
	if !s.begun {
		s.begun = true
		header := s.x.w.Header()
		header.Set("Content-Type", "text/event-stream; charset=utf-8")
		header.Set("X-Accel-Buffering", "no") // proxies pass events on at once
		s.x.allowWrite()
		s.x.w.WriteHeader(http.StatusOK)
	}
	s.x.allowWrite()
	if _, err := s.x.w.Write([]byte(text)); err != nil {
		return err
	}
	return http.NewResponseController(s.x.w).Flush()
}

// beat sends a comment, which clients ignore. A failure means that the client has gone.
func (s *streamed) beat() error {
	_ = s.send(": waiting\n\n")
	return nil
}

// refuse sends an error as an event if the status has gone out already.
func (s *streamed) refuse(err error) error {
	if !s.begun {
		return err
	}
	refused, ok := errors.AsType[*openai.Error](err)
	if !ok {
		s.h.cfg.Log.Error("an OpenAI stream failed", "task", s.j.id, "error", err)
		refused = openai.Internal()
	}
	_ = s.send("data: " + string(refused.Body()) + "\n\n")
	return nil
}

func (s *streamed) describe(result *tasks.Result) {
	if !s.begun {
		s.x.describe(result)
	}
}

func (s *streamed) finish(_ context.Context, result *tasks.Result) error {
	chunks, err := s.j.request.Chunks(result)
	if err != nil {
		return s.refuse(err)
	}
	for _, c := range chunks {
		if s.send("data: "+string(c)+"\n\n") != nil {
			return nil // the client has gone
		}
	}
	_ = s.send("data: [DONE]\n\n")
	return nil
}
