package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/neuronmill/neuronmill/storage"
)

// Input gives the payload of a task, from the bucket where it was too large for Redis.
// An input that is gone is a *Failure with code input_not_found; one that cannot be
// understood is Problems.
func (t Task) Input(ctx context.Context, s storage.Store) (Payload, error) {
	data := t.Payload
	if t.InputKey != "" {
		var raw json.RawMessage
		err := readJSON(ctx, s, t.InputKey, &raw)
		if errors.Is(err, storage.ErrNotFound) {
			return nil, &Failure{Code: "input_not_found", Message: "the task's input is no longer in the bucket"}
		}
		if err != nil {
			return nil, err
		}
		data = raw
	}
	return Parse(t.Kind, data)
}

// OutputOf decodes the output of a completed result: OutputOf[tasks.TextOutput](r). A
// failed one gives its *Failure as the error.
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
