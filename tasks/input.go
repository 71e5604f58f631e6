package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
)

// Input returns the payload of a task, and reads it from the bucket if it was too large
// for Redis. It returns a *TaskError with code input_not_found if the bucket has lost the
// payload, or input_damaged if the digest differs. It returns a ValidationError if the payload is
// not valid.
func (t Task) Input(ctx context.Context, s storage.Store) (Payload, error) {
	if t.InputKey == "" {
		return Parse(t.Kind, t.Payload)
	}
	if s == nil {
		return nil, errors.New("the task's input lies in the bucket: reading it needs a Store")
	}
	document, err := objects.Read(ctx, s, t.InputKey)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, &TaskError{Code: CodeInputNotFound, Message: "the task's input is no longer in the bucket"}
	case errors.Is(err, storage.ErrInvalidKey):
		return nil, &TaskError{Code: CodeInputDamaged, Message: "the name of the task's input is not valid"}
	case err != nil:
		return nil, fmt.Errorf("read the input of %s: %w", t.ID, err)
	case digest(string(t.Kind), t.Model, string(document)) != t.Digest:
		return nil, &TaskError{Code: CodeInputDamaged, Message: "the task's input in the bucket is not the one it was accepted with"}
	}
	return Parse(t.Kind, document)
}

// OutputOf decodes the output of a completed result: OutputOf[tasks.TextOutput](r). It
// returns the *TaskError of a failed result as the error.
func OutputOf[T any](r *Result) (T, error) {
	var out T
	if r.Error != nil {
		return out, r.Error
	}
	decoder := json.NewDecoder(bytes.NewReader(r.Output))
	if err := decoder.Decode(&out); err != nil {
		return out, fmt.Errorf("decode the output of %s: %w", r.ID, err)
	}
	return out, nil
}
