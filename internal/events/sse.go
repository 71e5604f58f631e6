package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	heartbeat    = 15 * time.Second // of silence, then a comment is sent
	writeTimeout = 30 * time.Second // for each write
	streamFor    = time.Hour        // then the client has to connect again
	retryAfter   = 2 * time.Second  // until the client connects again
)

// Serve answers a request with the events of a task as server-sent events, until the task or
// the client ends, or after an hour. An event has the id TASK-NUMBER; a request with the
// header Last-Event-ID continues after it. The last event is "end". A request after that is
// answered by 204, which tells an EventSource to stop.
//
// An error of Serve means that nothing was written: ErrTooMany, that of snapshot, or one of
// Redis. The server needs no write timeout; each write has a deadline of its own.
func Serve(w http.ResponseWriter, r *http.Request, h *Hub, task string, snapshot Snapshot) error {
	after, _ := ParseID(task, r.Header.Get("Last-Event-ID")) // an id of another task is none
	f, err := h.Follow(r.Context(), task, after, snapshot)
	if errors.Is(err, ErrEnded) {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // a proxy may hold events back otherwise
	ctx, cancel := context.WithTimeout(r.Context(), streamFor)
	defer cancel()
	s := &sse{out: w, control: http.NewResponseController(w)}
	_ = s.control.SetReadDeadline(time.Time{}) // that of the request would end the stream
	if s.write(fmt.Sprintf("retry: %d\n\n", retryAfter.Milliseconds())) == nil {
		s.copy(ctx, f, task)
	}
	return nil
}

// sse writes a stream of events.
type sse struct {
	out     io.Writer
	control *http.ResponseController
}

// copy writes events until the task, the client or ctx ends.
func (s *sse) copy(ctx context.Context, f *Follower, task string) {
	for {
		waiting, cancel := context.WithTimeout(ctx, heartbeat)
		e, err := f.Next(waiting)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, io.EOF):
			_ = s.write("event: end\ndata: {}\n\n")
			return
		case errors.Is(err, context.DeadlineExceeded):
			err = s.write(": \n\n")
		case err == nil:
			err = s.event(task, e)
		}
		if err != nil {
			return // the client connects again and continues
		}
	}
}

func (s *sse) event(task string, e Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.write(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", ID(task, e.N), e.Type, data))
}

func (s *sse) write(text string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := io.WriteString(s.out, text); err != nil {
		return err
	}
	return s.control.Flush()
}
