package api

import (
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/api/openaiapi"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/openai"
)

// openaiRoutes registers the synchronous routes of OpenAI's API, see package openaiapi.
func (s *Server) openaiRoutes() {
	cfg := openaiapi.Config{
		Redis: s.cfg.Redis, Store: s.cfg.Store, Log: s.log, Stopping: s.stopping, WebhookNetworks: s.cfg.WebhookNetworks, Parsed: parsed,
		Caller: func(r *http.Request) (openaiapi.Caller, error) {
			c := callerOf(r.Context())
			return openaiapi.Caller{Client: s.client(c.tenant), Tenant: c.tenant, Key: c.keyID}, nil
		},
	}
	cfg.Ask(s.monitor, s.cfg.Gate)
	handler := openaiapi.New(cfg)
	s.closeOpenAI = handler.Close
	for _, pattern := range openaiapi.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		r := route{method: method, path: path, scope: keys.TasksWrite, maxBody: -1, fail: failOpenAI}
		switch method {
		case http.MethodGet:
			r.scope, r.maxBody = keys.TasksRead, 0
		case http.MethodDelete:
			r.maxBody = 0
		}
		if openaiapi.Buffers(pattern) {
			r.buffered = openaiapi.MaxJSON
		}
		if strings.HasSuffix(path, "/cancel") {
			r.maxBody = 0
		}
		if !strings.Contains(path, "...") { // OpenAPI has no such paths
			r.doc = &huma.Operation{
				OperationID: operationOf(method, path), Tags: []string{"OpenAI"},
				Summary:     "OpenAI's " + path,
				Parameters:  idParameter(path),
				Description: "Takes and answers what OpenAI's SDKs send and expect; docs/openai.md says which fields.",
			}
		}
		s.handle(r, handler.ServeHTTP)
	}
}

// operationOf returns the id of a route in the document. Routes with several methods have
// the method in it.
func operationOf(method, path string) string {
	id := "openai" + strings.NewReplacer("/", "-", "{", "", "}", "").Replace(strings.TrimPrefix(path, "/v1"))
	if strings.HasPrefix(path, "/v1/files") || strings.HasPrefix(path, "/v1/batches") {
		id += "-" + strings.ToLower(method)
	}
	return id
}

func idParameter(path string) []*huma.Param {
	if !strings.Contains(path, "{id}") {
		return nil
	}
	return []*huma.Param{{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: "string"}}}
}

// failOpenAI writes a problem of admit in OpenAI's envelope.
func failOpenAI(w http.ResponseWriter, _ *http.Request, p *Problem) {
	e := &openai.Error{Status: p.Status, Type: "invalid_request_error", Code: p.Code, Message: p.Detail}
	switch {
	case p.Status == http.StatusUnauthorized:
		e = openai.Unauthorized()
	case p.Status == http.StatusForbidden:
		e.Type = "permission_error"
	case p.Status == http.StatusTooManyRequests:
		e.Type = "rate_limit_error"
	case p.Status >= http.StatusInternalServerError:
		e.Type = "server_error"
	}
	maps.Copy(w.Header(), p.header)
	openaiapi.Refuse(w, e, time.Now())
}
