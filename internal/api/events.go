package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/keys"
)

// eventsFor is how long one request may follow a task.
const eventsFor = 2 * time.Hour

func (s *Server) eventRoutes() {
	s.handle(route{
		method: http.MethodGet, path: "/v1/tasks/{id}/events", scope: keys.TasksRead,
		doc: &huma.Operation{
			OperationID: "follow-task", Summary: "Follows a task by server-sent events", Tags: []string{"tasks"},
			Description: "Events are `queued`, `waiting`, `running`, `text`, `progress` and `done`; `end` follows. Text begins anew with each `running`. " +
				"A request with Last-Event-ID continues after that event, on any server. After the end the answer is 204.",
			Parameters: []*huma.Param{
				{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}},
				{Name: "Last-Event-ID", In: "header", Description: "The id of the last event that was received.", Schema: &huma.Schema{Type: huma.TypeString}},
			},
			Responses: map[string]*huma.Response{
				"200": {Description: "The events.", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}},
				"204": {Description: "The task has ended, and all its events were received."},
			},
		},
	}, s.followTask)
}

// followTask writes the events of the caller's task until it or the server ends.
func (s *Server) followTask(w http.ResponseWriter, req *http.Request) {
	s.hubOnce.Do(s.runHub)
	ctx, cancel := s.waitContext(req.Context(), eventsFor)
	defer cancel()
	tenant, id := callerOf(ctx).tenant, req.PathValue("id")
	err := events.Serve(w, req.WithContext(ctx), s.hub, id, events.SnapshotOf(s.client(tenant), tenant, id))
	switch {
	case errors.Is(err, events.ErrTooMany):
		newProblem(codeUnavailable, "This server has too many followers.").retryAfter(5 * time.Second).write(w)
	case err != nil:
		s.problem(ctx, "follow-task", err).write(w)
	}
}

// runHub serves the followers until the server stops.
func (s *Server) runHub() {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-s.stopping
		cancel()
	}()
	go func() { _ = s.hub.Run(ctx) }()
}
