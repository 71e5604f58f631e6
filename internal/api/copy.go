package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/neuronmill/neuronmill/internal/mergepatch"
	"github.com/neuronmill/neuronmill/tasks"
)

type copyInput struct {
	ID             string          `path:"id" maxLength:"200"`
	IdempotencyKey string          `header:"Idempotency-Key" maxLength:"255"`
	Body           json.RawMessage `contentType:"application/merge-patch+json"`
}

func (s *Server) copyTask(ctx context.Context, in *copyInput) (*taskOutput, error) {
	tenant := callerOf(ctx).tenant
	client := s.client(tenant)
	info, err := s.find(ctx, client, in.ID)
	if err != nil {
		return nil, err
	}
	original := info.Task
	if info.Result != nil {
		if original, err = tasks.FailedTask(ctx, s.cfg.Store, tenant, in.ID); err != nil {
			return nil, s.notKept(err)
		}
	}
	payload, err := original.Input(ctx, s.cfg.Store)
	if err != nil {
		return nil, s.notKept(err)
	}
	input, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encode the input of %s: %w", in.ID, err)
	}
	metadata := maps.Clone(original.Metadata)
	delete(metadata, "retry_of")
	document, err := json.Marshal(taskRequest{Kind: original.Kind, Model: original.Model, Input: input, Lane: original.Lane, Metadata: metadata, MaxNeurons: original.MaxNeurons})
	if err != nil {
		return nil, fmt.Errorf("encode the task %s: %w", in.ID, err)
	}
	patched, err := mergepatch.Apply(document, in.Body)
	if err != nil {
		return nil, newProblem(codeExpectedObject, "The merge patch "+err.Error()+".")
	}
	request, problem := s.decodeTask(patched)
	if problem != nil {
		return nil, problem
	}
	if request.Metadata == nil {
		request.Metadata = map[string]string{}
	}
	request.Metadata["copied_from"] = in.ID
	return s.submitOne(ctx, request, in.IdempotencyKey, 0)
}
