package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/neuronmill/neuronmill/tasks"
)

func (s *Server) retryTask(ctx context.Context, in *idInput) (*taskOutput, error) {
	client := s.client(callerOf(ctx).tenant)
	info, err := s.find(ctx, client, in.ID)
	switch {
	case err != nil:
		return nil, err
	case info.Result == nil:
		return nil, newProblem(codeNotEnded, "Wait until the task has failed, or cancel it first.")
	case info.Result.Status != tasks.Failed:
		return nil, newProblem(codeNotFailed, "")
	}
	receipt, err := client.Retry(ctx, in.ID)
	if err != nil {
		return nil, s.notKept(err)
	}
	return s.accepted(ctx, client, receipt)
}

// accepted answers with a task that was made from another one.
func (s *Server) accepted(ctx context.Context, client *tasks.Client, receipt tasks.Receipt) (*taskOutput, error) {
	body, err := s.taskOf(ctx, client, receipt.ID)
	if err != nil {
		return nil, err
	}
	out := &taskOutput{Status: http.StatusAccepted, Location: body.URLs.Self, ETag: etagOf(body), Body: body}
	if receipt.Existing {
		out.Replayed = "true"
	}
	return out, nil
}

// notKept explains an error of a task that cannot be run again.
func (s *Server) notKept(err error) error {
	var lost *tasks.TaskError
	if isNotFound(err) || errors.As(err, &lost) {
		return newProblem(codeNotKept, "")
	}
	return err
}
