package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/storage"
)

func (s *Server) healthRoutes() {
	jsonRoute(s, "", huma.Operation{
		OperationID: "live", Method: http.MethodGet, Path: "/healthz", Summary: "Says that the process lives", Tags: []string{"health"},
	}, func(context.Context, *struct{}) (*struct{ Body liveBody }, error) {
		return &struct{ Body liveBody }{liveBody{Status: "ok"}}, nil
	})
	jsonRoute(s, "", huma.Operation{
		OperationID: "ready", Method: http.MethodGet, Path: "/readyz", Summary: "Says whether requests can be served, and what is missing", Tags: []string{"health"},
		Description: "503 while something is missing.",
	}, s.ready)
}

type liveBody struct {
	Status string `json:"status" example:"ok"`
}

// readyBody lists the missing parts of a server.
type readyBody struct {
	Ready   bool     `json:"ready"`
	Missing []string `json:"missing" doc:"One sentence for each thing that is missing."`
}

type readyOutput struct {
	Status int
	Body   readyBody
}

// ready asks Redis and the bucket.
func (s *Server) ready(ctx context.Context, _ *struct{}) (*readyOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	missing := []string{}
	if err := s.cfg.Redis.Ping(ctx).Err(); err != nil {
		missing = append(missing, "Redis does not answer")
		s.log.Debug("not ready", "error", err)
	}
	if _, err := s.cfg.Store.Head(ctx, "_neuronmill/ready"); err != nil && !errors.Is(err, storage.ErrNotFound) {
		missing = append(missing, "the bucket does not answer, or refuses this server")
		s.log.Debug("not ready", "error", err)
	}
	select {
	case <-s.stopping:
		missing = append(missing, "the server is stopping")
	default:
	}
	out := &readyOutput{Status: http.StatusOK, Body: readyBody{Ready: len(missing) == 0, Missing: missing}}
	if !out.Body.Ready {
		out.Status = http.StatusServiceUnavailable
	}
	return out, nil
}
