package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/tasks"
)

// taskBody is a task in an answer.
type taskBody struct {
	ID         string            `json:"id"`
	Kind       tasks.Kind        `json:"kind"`
	Lane       tasks.Lane        `json:"lane,omitempty" doc:"Absent once the task has ended."`
	Model      string            `json:"model"`
	State      string            `json:"state" enum:"pending,scheduled,active,retry,archived,cancelling,completed,failed"`
	Attempts   int               `json:"attempts" doc:"Counted calls so far; 0 in a list of ended tasks."`
	CreatedAt  *time.Time        `json:"created_at,omitempty"`
	Deadline   *time.Time        `json:"deadline,omitempty"`
	RunAt      *time.Time        `json:"run_at,omitempty"`
	FinishedAt *time.Time        `json:"finished_at,omitempty"`
	Durability tasks.Durability  `json:"durability,omitempty" doc:"store: the task survives the loss of Redis."`
	Waiting    *monitor.View     `json:"waiting" doc:"Why it has not run yet; null while it runs and once it has ended."`
	LastError  string            `json:"last_error,omitempty" doc:"Why the last attempt failed."`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Error      *tasks.TaskError  `json:"error,omitempty" doc:"Why the task failed."`
	Output     json.RawMessage   `json:"output,omitempty" doc:"What a completed task gave, up to 64 KiB; more is at urls.result."`
	Usage      *tasks.Usage      `json:"usage,omitempty"`
	URLs       taskURLs          `json:"urls"`
}

// taskURLs are the routes of a task. Callers need not build them.
type taskURLs struct {
	Self   string `json:"self"`
	Result string `json:"result"`
	Events string `json:"events"`
	Cancel string `json:"cancel"`
}

func urlsOf(id string) taskURLs {
	self := "/v1/tasks/" + id
	return taskURLs{Self: self, Result: self + "/result", Events: self + "/events", Cancel: self}
}

// mostOutput is the most bytes of an output within a task.
const mostOutput = 64 << 10

func (s *Server) taskOf(ctx context.Context, client *tasks.Client, id string) (taskBody, error) {
	info, err := s.find(ctx, client, id)
	if err != nil {
		return taskBody{}, err
	}
	return s.body(ctx, info)
}

// body describes a task.
func (s *Server) body(ctx context.Context, info tasks.Info) (taskBody, error) {
	if info.Result != nil {
		return endedBody(info.Result), nil
	}
	b := liveBodyOf(info)
	w, err := s.monitor.WaitingOn(ctx, s.cfg.Gate, info)
	if err != nil {
		return b, err
	}
	b.Waiting = w.View(time.Now())
	return b, nil
}

// newBody describes a task that was just accepted, without asking for it again.
func (s *Server) newBody(ctx context.Context, r taskRequest, receipt tasks.Receipt) taskBody {
	spec, _ := tasks.SpecOf(receipt.Kind)
	now := time.Now().UTC()
	b := taskBody{
		ID: receipt.ID, Kind: receipt.Kind, Lane: receipt.Lane, Model: receipt.Model, State: "pending", CreatedAt: &now,
		Durability: receipt.Durability, Metadata: r.Metadata, URLs: urlsOf(receipt.ID),
	}
	start := now
	if r.RunAt != nil && r.RunAt.After(now) {
		at := r.RunAt.UTC()
		b.State, b.RunAt, start = "scheduled", &at, at
		b.Waiting = monitor.Waiting{For: monitor.ForSchedule, Reason: "its start at " + at.Format(time.RFC3339), Until: at}.View(now)
	} else if w, err := s.recentOutlook(ctx, receipt, 1); err == nil {
		b.Waiting = w.View(now)
	}
	deadline := start.Add(spec.MaxAge)
	if r.Deadline != nil {
		deadline = r.Deadline.UTC()
	}
	b.Deadline = &deadline
	return b
}

func liveBodyOf(info tasks.Info) taskBody {
	b := taskBody{
		ID: info.ID, Kind: info.Kind, Lane: info.Lane, Model: info.Model, State: info.State, Attempts: info.Attempts,
		CreatedAt: &info.CreatedAt, Deadline: &info.Deadline, LastError: info.LastError, Metadata: info.Metadata,
		Durability: tasks.InRedis, URLs: urlsOf(info.ID),
	}
	if info.Pending {
		b.Durability = tasks.InStore
	}
	if info.Cancelled {
		b.State = "cancelling"
	}
	if !info.StartAt.IsZero() {
		b.RunAt = &info.StartAt
	}
	return b
}

func endedBody(r *tasks.Result) taskBody {
	b := taskBody{
		ID: r.ID, Kind: r.Kind, Model: r.Model, State: string(r.Status), Attempts: r.Attempts, CreatedAt: &r.CreatedAt, FinishedAt: &r.FinishedAt,
		Metadata: r.Metadata, Error: r.Error, Usage: &r.Usage, URLs: urlsOf(r.ID),
	}
	if len(r.Output) <= mostOutput {
		b.Output = r.Output
	}
	return b
}

func etagOf(b taskBody) string { return fmt.Sprintf(`"%s-%d"`, b.State, b.Attempts) }

// shortBody has the fields that make the ETag.
func shortBody(info tasks.Info) taskBody {
	if info.Result != nil {
		return taskBody{State: string(info.Result.Status), Attempts: info.Result.Attempts}
	}
	return liveBodyOf(info)
}
