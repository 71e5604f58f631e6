package api

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/metrics"
)

// metricsRoute serves the metrics of this process and of the fleet. They name no tenant.
func (s *Server) metricsRoute() {
	s.handle(route{
		method: http.MethodGet, path: "/metrics", scope: keys.TasksRead,
		doc: &huma.Operation{
			OperationID: "metrics", Summary: "Metrics for Prometheus", Tags: []string{"health"},
			Description: "Text of Prometheus, or OpenMetrics by Accept; docs/metrics.md explains each metric.",
			Responses: map[string]*huma.Response{"200": {
				Description: "The metrics.", Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: "string"}}},
			}},
		},
	}, metrics.Handler(s.cfg.Metrics).ServeHTTP)
}
