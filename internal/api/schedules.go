package api

import (
	"context"
	"errors"
	"net/http"
	"regexp"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/tasks"
)

func (s *Server) scheduleRoutes() {
	tags := []string{"schedules"}
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "listSchedules", Method: http.MethodGet, Path: "/v1/schedules", Summary: "Lists the schedules with their last and next runs", Tags: tags,
	}, s.listSchedules)
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "addSchedule", Method: http.MethodPost, Path: "/v1/schedules", Summary: "Stores a schedule", Tags: tags, DefaultStatus: http.StatusCreated,
		Description: "Schedulers fire it from its next slot on, each slot once. A schedule cannot be changed: delete it and add it again.",
	}, s.addSchedule)
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "getSchedule", Method: http.MethodGet, Path: "/v1/schedules/{name}", Summary: "Returns a schedule", Tags: tags,
	}, func(ctx context.Context, in *scheduleInput) (*scheduleOutput, error) {
		return s.scheduleAfter(ctx, in.Name, nil)
	})
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "scheduleHistory", Method: http.MethodGet, Path: "/v1/schedules/{name}/history", Summary: "Lists the latest runs of a schedule, newest first", Tags: tags,
		Description: "At most 100 runs are kept. They stay when the schedule is deleted.",
	}, s.scheduleHistory)
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "pauseSchedule", Method: http.MethodPost, Path: "/v1/schedules/{name}/pause", Summary: "Stops a schedule from firing", Tags: tags,
		Description: "Runs that have begun go on.",
	}, func(ctx context.Context, in *scheduleInput) (*scheduleOutput, error) {
		return s.scheduleAfter(ctx, in.Name, (*schedule.Stored).Pause)
	})
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "resumeSchedule", Method: http.MethodPost, Path: "/v1/schedules/{name}/resume", Summary: "Lets a paused schedule fire again", Tags: tags,
		Description: "Slots of the meantime are not made up for.",
	}, func(ctx context.Context, in *scheduleInput) (*scheduleOutput, error) {
		return s.scheduleAfter(ctx, in.Name, (*schedule.Stored).Resume)
	})
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "runSchedule", Method: http.MethodPost, Path: "/v1/schedules/{name}/run", Summary: "Fires a schedule now", Tags: tags, DefaultStatus: http.StatusAccepted,
		Description: "Also a paused one.",
	}, s.runSchedule)
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "deleteSchedule", Method: http.MethodDelete, Path: "/v1/schedules/{name}", Summary: "Removes a schedule", Tags: tags, DefaultStatus: http.StatusNoContent,
		Description: "Runs that have begun go on, and the history stays.",
	}, func(ctx context.Context, in *scheduleInput) (*struct{}, error) {
		return nil, scheduleProblem(s.schedules(ctx).Remove(ctx, in.Name))
	})
}

type scheduleInput struct {
	Name string `path:"name" maxLength:"200"`
}

type scheduleOutput struct {
	Body *schedule.Schedule
}

// schedules returns the schedules of the caller's tenant.
func (s *Server) schedules(ctx context.Context) *schedule.Stored {
	return s.schedulesOf(callerOf(ctx).tenant, nil)
}

func (s *Server) schedulesOf(tenant string, runs *schedule.RunCache) *schedule.Stored {
	return schedule.NewStored(schedule.StoredConfig{Client: s.client(tenant), Store: s.cfg.Store, Redis: s.cfg.Redis, Tenant: tenant, Log: s.log, Runs: runs})
}

// scheduleProblem turns an error of package schedule into its problem.
func scheduleProblem(err error) error {
	var invalid tasks.ValidationError
	switch {
	case errors.Is(err, schedule.ErrNotFound):
		return newProblem(codeScheduleNotFound, "")
	case errors.Is(err, schedule.ErrExists):
		return newProblem(codeScheduleExists, "")
	case errors.Is(err, schedule.ErrTooMany):
		return newProblem(codeTooManySchedules, "")
	case errors.As(err, &invalid):
		for i, p := range invalid { // the messages repeat a person's input
			if p.Field == "cron" {
				invalid[i].Message = "is neither five fields nor a descriptor such as @daily, or never comes"
			}
			invalid[i].Message = placeholders.ReplaceAllString(invalid[i].Message, "has a placeholder that ")
		}
		return invalidInput("", invalid)
	}
	return err
}

// placeholders matches the unknown placeholder that a message repeats.
var placeholders = regexp.MustCompile(`^has \{\{[^,]*, which `)

func (s *Server) scheduleAfter(ctx context.Context, name string, change func(*schedule.Stored, context.Context, string) error) (*scheduleOutput, error) {
	all := s.schedules(ctx)
	if change != nil {
		if err := change(all, ctx, name); err != nil {
			return nil, scheduleProblem(err)
		}
	}
	found, err := all.Get(ctx, name)
	if err != nil {
		return nil, scheduleProblem(err)
	}
	return &scheduleOutput{found}, nil
}

type schedulesOutput struct {
	Body struct {
		Schedules []*schedule.Schedule `json:"schedules"`
	}
}

func (s *Server) listSchedules(ctx context.Context, _ *struct{}) (*schedulesOutput, error) {
	all, err := s.schedules(ctx).List(ctx)
	if err != nil {
		return nil, err
	}
	out := &schedulesOutput{}
	out.Body.Schedules = append([]*schedule.Schedule{}, all...)
	return out, nil
}

type addScheduleInput struct {
	Body schedule.Definition
}

func (s *Server) addSchedule(ctx context.Context, in *addScheduleInput) (*scheduleOutput, error) {
	added, err := s.schedules(ctx).Add(ctx, in.Body)
	if err != nil {
		return nil, scheduleProblem(err)
	}
	return &scheduleOutput{added}, nil
}

type historyInput struct {
	Name  string `path:"name" maxLength:"200"`
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"20"`
}

type historyOutput struct {
	Body struct {
		Runs []schedule.Run `json:"runs"`
	}
}

func (s *Server) scheduleHistory(ctx context.Context, in *historyInput) (*historyOutput, error) {
	all := s.schedules(ctx)
	runs, err := all.History(ctx, in.Name, in.Limit)
	if err == nil && len(runs) == 0 {
		_, err = all.Get(ctx, in.Name)
	}
	if err != nil {
		return nil, scheduleProblem(err)
	}
	out := &historyOutput{}
	out.Body.Runs = append([]schedule.Run{}, runs...)
	return out, nil
}

type runOutput struct {
	Body schedule.Run
}

func (s *Server) runSchedule(ctx context.Context, in *scheduleInput) (*runOutput, error) {
	r, err := s.schedules(ctx).RunNow(ctx, in.Name)
	if err != nil {
		return nil, scheduleProblem(err)
	}
	return &runOutput{r}, nil
}
