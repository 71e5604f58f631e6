package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/bulk"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/tasks"
)

func (s *Server) actionRoutes() {
	tags := []string{"tasks"}
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "act", Method: http.MethodPost, Path: "/v1/actions", Summary: "Retries, cancels or drops all tasks that match", Tags: tags, MaxBodyBytes: 64 << 10,
		Description: "First send an action with a filter: nothing changes, and the answer has `plan` with the number of tasks, their price and a token that is good for ten minutes. " +
			"Then send the token alone: 202 with `run`. Tasks that come after the plan are not changed. The same token always gives the same run, so it may be sent again. " +
			"A run changes at most 100,000 tasks. Its beginning and its end are in the log of actions.",
	}, s.act)
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "getAction", Method: http.MethodGet, Path: "/v1/actions/{id}", Summary: "Says how far an action is", Tags: tags,
		Description: "An action whose server has stopped is continued. It is known for seven days after its end.",
	}, func(ctx context.Context, in *idInput) (*struct{ Body bulk.State }, error) {
		state, err := s.bulk.Get(ctx, callerOf(ctx).tenant, cut(in.ID, mostActionID))
		return &struct{ Body bulk.State }{state}, actionProblem(err)
	})
}

// mostActionID is longer than any id of an action, in bytes.
const mostActionID = 64

// newBulk makes the runner of actions.
func (s *Server) newBulk() *bulk.Runner {
	return bulk.New(bulk.Config{
		Redis: s.cfg.Redis, Store: s.cfg.Store, Client: s.client, Estimate: tasks.Estimate, History: &history.History{Redis: s.cfg.Redis}, Log: s.log, Stopping: s.stopping,
		Seal: s.sealCursor,
		Open: func(ctx context.Context, purpose, text string, v any) (bool, error) {
			problem, err := s.openCursor(ctx, text, purpose, v)
			return problem == nil && text != "", err
		},
	})
}

type actInput struct {
	Body struct {
		Action bulk.Action `json:"action,omitempty" enum:"retry,cancel,drop" doc:"retry runs failed tasks again, as new ones; cancel ends tasks that have not ended; drop forgets failed tasks, which cannot run again then; their results stay."`
		Filter bulk.Filter `json:"filter,omitzero" doc:"Which tasks; {} is all of them."`
		Token  string      `json:"token,omitempty" maxLength:"65536" doc:"Of a plan; runs it. Send no other field."`
	}
}

type actOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     struct {
		Plan *bulk.Plan  `json:"plan,omitempty" doc:"What the action would do."`
		Run  *bulk.State `json:"run,omitempty" doc:"The action that runs."`
	}
}

func (s *Server) act(ctx context.Context, in *actInput) (*actOutput, error) {
	caller, out := callerOf(ctx), &actOutput{Status: http.StatusOK}
	switch {
	case in.Body.Action == "" && in.Body.Token == "":
		return nil, newProblem(tasks.CodePayloadInvalid, "", FieldError{Field: "action", Message: "is missing: send an action with a filter, then the token of its plan", Code: codeFieldRequired})
	case in.Body.Action != "" && in.Body.Token != "":
		return nil, newProblem(tasks.CodePayloadInvalid, "", FieldError{Field: "token", Message: "must come alone: it holds the action and the filter"})
	case in.Body.Token == "":
		plan, err := s.bulk.Prepare(ctx, caller.tenant, in.Body.Action, in.Body.Filter)
		out.Body.Plan = &plan
		return out, actionProblem(err)
	}
	state, err := s.bulk.Start(ctx, caller.tenant, caller.keyID, in.Body.Token)
	if err != nil {
		return nil, actionProblem(err)
	}
	out.Status, out.Location, out.Body.Run = http.StatusAccepted, "/v1/actions/"+state.ID, &state
	return out, nil
}

// actionProblem turns an error of package bulk into its problem.
func actionProblem(err error) error {
	var invalid tasks.ValidationError
	switch {
	case errors.As(err, &invalid):
		return invalidInput("", invalid)
	case errors.Is(err, bulk.ErrToken):
		return newProblem(codeTokenInvalid, "")
	case errors.Is(err, bulk.ErrExpired):
		return newProblem(codeTokenExpired, "")
	case errors.Is(err, bulk.ErrNotFound):
		return newProblem(codeActionNotFound, "")
	case errors.Is(err, bulk.ErrBusy):
		return newProblem(codeTooManyActions, "").with("Retry-After", "10")
	}
	return err
}
