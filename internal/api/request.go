package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/tasks"
)

// taskRequest is a task that a caller submits.
type taskRequest struct {
	Kind       tasks.Kind        `json:"kind" enum:"transcription,image,translation,embedding,text" doc:"What is to be done."`
	Model      string            `json:"model,omitempty" maxLength:"200" doc:"The kind's default when empty." example:"@cf/baai/bge-m3"`
	Input      json.RawMessage   `json:"input" doc:"The payload of the kind." example:"{\"text\":\"Good morning\",\"target_lang\":\"es\"}"`
	Lane       tasks.Lane        `json:"lane,omitempty" enum:"interactive,bulk" doc:"interactive, the default, runs before bulk."`
	Deadline   *time.Time        `json:"deadline,omitempty" doc:"The task fails if it has not run by then; 72 hours by default."`
	RunAt      *time.Time        `json:"run_at,omitempty" doc:"Earliest start, at most 90 days ahead."`
	MaxWait    string            `json:"max_wait,omitempty" doc:"Refuse the task (503) if it would wait longer: 30s, 5m. Empty means never." example:"30s"`
	MaxNeurons float64           `json:"max_neurons,omitempty" minimum:"0" doc:"Most that the task may cost over all its calls. It fails with budget_exceeded before a call that might exceed this; 0 means no bound." example:"50"`
	Metadata   map[string]string `json:"metadata,omitempty" doc:"Up to 16 pairs of your own, copied to the result."`
	Webhook    string            `json:"webhook,omitempty" maxLength:"2048" doc:"Gets a signed request when the task has ended (Standard Webhooks): https, a public host, unless the server allows private networks." example:"https://shop.example/done"`
	Key        string            `json:"key,omitempty" maxLength:"255" doc:"Idempotency key, as the header Idempotency-Key."`
}

// decodeTask reads and validates one task strictly.
func (s *Server) decodeTask(document []byte) (taskRequest, *Problem) {
	var r taskRequest
	var parsed any
	if err := strictJSON.Unmarshal(document, &parsed); err != nil {
		return r, humaProblem(nil, http.StatusBadRequest, "", &huma.ErrorDetail{Location: "body", Message: err.Error()})
	}
	registry := s.api.OpenAPI().Components.Schemas
	schema := registry.Schema(reflect.TypeFor[taskRequest](), true, "")
	path, result := huma.NewPathBuffer(nil, 0), &huma.ValidateResult{}
	path.Push("body")
	huma.Validate(registry, schema, path, huma.ModeWriteToServer, parsed, result)
	if len(result.Errors) > 0 {
		return r, humaProblem(nil, http.StatusBadRequest, "", result.Errors...)
	}
	if err := strictJSON.Unmarshal(document, &r); err != nil {
		return r, humaProblem(nil, http.StatusBadRequest, "", &huma.ErrorDetail{Location: "body", Message: err.Error()})
	}
	return r, nil
}

// request turns a submitted task into one of package tasks. The problem names all fields
// that are wrong.
func (s *Server) request(r taskRequest, headerKey string) (tasks.Request, time.Duration, *Problem) {
	var wrong []FieldError
	key := r.Key
	switch {
	case headerKey != "" && key != "" && key != headerKey:
		wrong = append(wrong, FieldError{Field: "key", Message: "differs from the header Idempotency-Key; send one of them"})
	case headerKey != "":
		key = headerKey
	}
	var maxWait time.Duration
	if r.MaxWait != "" {
		d, err := time.ParseDuration(r.MaxWait)
		if err != nil || d < 0 {
			wrong = append(wrong, FieldError{Field: "max_wait", Message: "wants a duration such as 30s or 5m", Code: codeFieldRange})
		}
		maxWait = max(d, time.Millisecond)
	}
	payload, err := tasks.Parse(r.Kind, r.Input)
	var invalid tasks.ValidationError
	if payload == nil && errors.As(err, &invalid) {
		p := invalidInput("input.", invalid)
		return tasks.Request{}, 0, newProblem(p.Code, "", append(wrong, p.Errors...)...)
	}
	if payload == nil {
		p, _ := problemOf(err)
		return tasks.Request{}, 0, p
	}
	options := []tasks.Option{tasks.WithLane(r.Lane), tasks.WithModel(r.Model), tasks.WithMetadata(r.Metadata), tasks.WithWebhook(r.Webhook), tasks.WithMaxNeurons(r.MaxNeurons)}
	if key != "" {
		options = append(options, tasks.WithIdempotencyKey(key))
	}
	if r.Deadline != nil {
		options = append(options, tasks.WithDeadline(*r.Deadline))
	}
	if r.RunAt != nil {
		options = append(options, tasks.WithStart(*r.RunAt))
	}
	if len(wrong) > 0 {
		return tasks.Request{}, 0, newProblem(tasks.CodePayloadInvalid, "", wrong...)
	}
	return tasks.Request{Payload: payload, Options: options}, maxWait, nil
}

// refusal turns an error of Enqueue into a problem whose fields are those of taskRequest.
func refusal(err error) (*Problem, error) {
	var invalid tasks.ValidationError
	if !errors.As(err, &invalid) {
		return problemOf(err)
	}
	renamed := make(tasks.ValidationError, len(invalid))
	for i, p := range invalid {
		name, _, _ := strings.Cut(p.Field, ".")
		switch name {
		case "model", "lane", "deadline", "metadata", "webhook", "max_neurons":
		case "start":
			p.Field = "run_at"
		case "idempotency_key":
			p.Field = "key"
		case "accept":
		default:
			p.Field = "input." + p.Field
		}
		renamed[i] = p
	}
	return invalidInput("", renamed), nil
}
