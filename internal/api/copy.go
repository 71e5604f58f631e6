package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

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
	patched, err := mergePatch(document, in.Body)
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

// deepestPatch bounds the objects within objects of a patch: each level copies all that is
// below it.
const deepestPatch = 64

// mergePatch applies a JSON merge patch (RFC 7396) and keeps all else byte by byte. Its
// error is for the caller and repeats nothing of the patch.
func mergePatch(document, patch []byte) ([]byte, error) {
	return mergeBelow(document, patch, deepestPatch)
}

func mergeBelow(document, patch []byte, levels int) ([]byte, error) {
	if levels == 0 {
		return nil, fmt.Errorf("must not have more than %d objects within each other", deepestPatch)
	}
	var changes map[string]json.RawMessage
	if err := json.Unmarshal(patch, &changes); err != nil || changes == nil {
		return nil, errors.New("must be a JSON object")
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(document, &members) != nil || members == nil {
		members = map[string]json.RawMessage{}
	}
	for name, change := range changes {
		switch text := strings.TrimSpace(string(change)); {
		case text == "null":
			delete(members, name)
		case strings.HasPrefix(text, "{"):
			merged, err := mergeBelow(members[name], change, levels-1)
			if err != nil {
				return nil, err
			}
			members[name] = merged
		default:
			members[name] = change
		}
	}
	return json.Marshal(members)
}
