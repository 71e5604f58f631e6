package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/neuronmill/neuronmill/tasks"
)

func (s *Server) cancelTask(ctx context.Context, in *idInput) (*taskOutput, error) {
	client := s.client(callerOf(ctx).tenant)
	info, err := s.find(ctx, client, in.ID)
	if err != nil {
		return nil, err
	}
	if info.Result == nil {
		err = client.Cancel(ctx, in.ID)
	}
	if err == nil || errors.Is(err, tasks.ErrEnded) {
		info, err = s.find(ctx, client, in.ID)
	}
	switch {
	case err != nil:
		return nil, err
	case info.Result != nil && (info.Result.Error == nil || info.Result.Error.Code != tasks.CodeCancelled):
		return nil, tasks.ErrEnded
	}
	body, err := s.body(ctx, info)
	if err != nil {
		return nil, err
	}
	status := http.StatusAccepted
	if info.Result != nil {
		status = http.StatusOK
	}
	return &taskOutput{Status: status, ETag: etagOf(body), Body: body}, nil
}
