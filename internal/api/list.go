package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/index"
	"github.com/neuronmill/neuronmill/tasks"
)

type listInput struct {
	State    string   `query:"state" enum:"pending,scheduled,active,retry,archived,completed,failed,ended" doc:"Without it, tasks that have not ended. ended means completed or failed."`
	Kind     string   `query:"kind" enum:"transcription,image,translation,embedding,text"`
	Lane     string   `query:"lane" enum:"interactive,bulk"`
	Model    string   `query:"model" maxLength:"200"`
	Code     string   `query:"code" maxLength:"64" doc:"Error code of failed tasks." example:"deadline_exceeded"`
	Since    string   `query:"since" format:"date-time" doc:"Accepted at this time or later; ended tasks: ended at this time or later."`
	Metadata []string `query:"metadata" maxItems:"16" doc:"key:value, of which all must match. Not for ended tasks." example:"order:7"`
	Limit    int      `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor   string   `query:"cursor" maxLength:"500" doc:"next of the last page, with the same filters."`
}

type listOutput struct {
	Body listBody
}

type listBody struct {
	Tasks []taskBody `json:"tasks"`
	Next  string     `json:"next" doc:"Cursor of the next page; empty at the end."`
}

// filters encodes the filters of a list, so that its cursors fit no other list.
func (in *listInput) filters(tenant string) string {
	return fmt.Sprintf("%q", []string{tenant, in.State, in.Kind, in.Lane, in.Model, in.Code, in.Since, strings.Join(in.Metadata, "\x00")})
}

// ended reports whether the list is of ended tasks.
func (in *listInput) ended() bool {
	return in.State == "completed" || in.State == "failed" || in.State == "ended"
}

// parse reads the parameters that have a form of their own.
func (in *listInput) parse() (since time.Time, metadata map[string]string, problem *Problem) {
	if in.Since != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, in.Since); err != nil {
			return since, nil, newProblem(codeParameter, "", FieldError{Field: "since", Message: "must be a time such as 2026-11-26T15:04:05Z"})
		}
	}
	metadata = map[string]string{}
	for _, pair := range in.Metadata {
		key, value, ok := strings.Cut(pair, ":")
		if !ok {
			return since, nil, newProblem(codeParameter, "", FieldError{Field: "metadata", Message: "must be key:value"})
		}
		metadata[key] = value
	}
	switch {
	case in.ended() && len(metadata) > 0:
		return since, nil, newProblem(codeParameter, "", FieldError{Field: "metadata", Message: "does not select ended tasks; their results have it"})
	case in.Code != "" && !in.ended():
		return since, nil, newProblem(codeParameter, "", FieldError{Field: "code", Message: "selects failed tasks only; add state=failed"})
	}
	return since, metadata, nil
}

func (s *Server) listTasks(ctx context.Context, in *listInput) (*listOutput, error) {
	since, metadata, problem := in.parse()
	if problem != nil {
		return nil, problem
	}
	if in.ended() {
		return s.listEnded(ctx, in, since)
	}
	tenant := callerOf(ctx).tenant
	filters := in.filters(tenant)
	var at tasks.Position
	if problem, err := s.openCursor(ctx, in.Cursor, filters, &at); problem != nil || err != nil {
		return nil, cmp.Or[error](orNil(problem), err)
	}
	list, next, err := s.client(tenant).ListFrom(ctx, tasks.ListFilter{Kind: tasks.Kind(in.Kind), Lane: tasks.Lane(in.Lane), State: in.State, Limit: in.Limit}, at, func(t tasks.Info) bool {
		if in.Model != "" && t.Model != in.Model || t.CreatedAt.Before(since) {
			return false
		}
		for key, value := range metadata {
			if t.Metadata[key] != value {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	body := listBody{Tasks: make([]taskBody, 0, len(list))}
	for _, info := range list {
		b, err := s.body(ctx, info)
		if err != nil {
			return nil, err
		}
		body.Tasks = append(body.Tasks, b)
	}
	if next.Section >= 0 {
		if body.Next, err = s.sealCursor(ctx, filters, next); err != nil {
			return nil, err
		}
	}
	return &listOutput{body}, nil
}

// listEnded reads the index of ended tasks. The entries have no output: their results do.
func (s *Server) listEnded(ctx context.Context, in *listInput, since time.Time) (*listOutput, error) {
	tenant := callerOf(ctx).tenant
	filters := in.filters(tenant)
	f := index.Filter{Kind: tasks.Kind(in.Kind), Lane: tasks.Lane(in.Lane), Model: in.Model, Code: in.Code, Since: since, Limit: in.Limit}
	if in.State != "ended" {
		f.Status = tasks.Status(in.State)
	}
	if problem, err := s.openCursor(ctx, in.Cursor, filters, &f.After); problem != nil || err != nil {
		return nil, cmp.Or[error](orNil(problem), err)
	}
	page, err := (&index.Index{Redis: s.cfg.Redis}).Find(ctx, tenant, f)
	if err != nil {
		return nil, err
	}
	body := listBody{Tasks: make([]taskBody, 0, len(page.Entries))}
	for _, e := range page.Entries {
		body.Tasks = append(body.Tasks, entryBody(e))
	}
	if !page.Next.IsZero() {
		if body.Next, err = s.sealCursor(ctx, filters, page.Next); err != nil {
			return nil, err
		}
	}
	return &listOutput{body}, nil
}

// entryBody returns the task of an entry, without the fields that only its result has.
func entryBody(e index.Entry) taskBody {
	b := taskBody{
		ID: e.ID, Kind: e.Kind, Lane: e.Lane, Model: e.Model, State: string(e.Status), FinishedAt: &e.FinishedAt,
		URLs: urlsOf(e.ID),
	}
	if e.Code != "" {
		b.Error = &tasks.TaskError{Code: e.Code}
		if i := slices.IndexFunc(tasks.Codes, func(c tasks.CodeInfo) bool { return c.Code == e.Code }); i >= 0 {
			b.Error.Message = tasks.Codes[i].Meaning
		}
	}
	return b
}
