package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

type batchInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"200" doc:"Tasks without a key of their own get this one with their position."`
	Body           struct {
		Tasks []json.RawMessage `json:"tasks" minItems:"1" maxItems:"1000" doc:"Requests as POST /v1/tasks takes them."`
	}
}

type batchOutput struct {
	Body batchBody
}

type batchBody struct {
	Accepted int         `json:"accepted"`
	Refused  int         `json:"refused"`
	Items    []batchItem `json:"items"`
}

// batchItem is what became of one task of a batch: an id, or a problem.
type batchItem struct {
	Index    int        `json:"index"`
	ID       string     `json:"id,omitempty"`
	Replayed bool       `json:"replayed,omitempty" doc:"The key already had this task."`
	Problem  *Problem   `json:"problem,omitempty"`
	URLs     *taskURLs  `json:"urls,omitempty"`
	Lane     tasks.Lane `json:"lane,omitempty"`
	Model    string     `json:"model,omitempty"`
}

func (s *Server) submitMany(ctx context.Context, in *batchInput) (*batchOutput, error) {
	caller := callerOf(ctx)
	client := s.client(caller.tenant)
	items := make([]batchItem, len(in.Body.Tasks))
	var requests []tasks.Request
	var at []int
	for i, document := range in.Body.Tasks {
		items[i].Index = i
		r, problem := s.decodeTask(document)
		var request tasks.Request
		if problem == nil {
			if r.Key == "" && in.IdempotencyKey != "" {
				r.Key = fmt.Sprintf("%s/%d", in.IdempotencyKey, i)
			}
			var maxWait time.Duration
			if request, maxWait, problem = s.request(r, ""); problem == nil && maxWait > 0 {
				var err error
				if problem, err = s.wouldWait(ctx, r, maxWait); err != nil {
					return nil, err
				}
			}
		}
		if problem != nil {
			items[i].Problem = problem
			continue
		}
		request.Options = append(request.Options, tasks.WithAPIKey(caller.keyID))
		requests, at = append(requests, request), append(at, i)
	}
	for i, out := range client.EnqueueMany(ctx, requests) {
		item := &items[at[i]]
		if out.Err != nil {
			problem, cause := refusal(out.Err)
			if cause != nil {
				s.log.Warn("task not accepted", "code", problem.Code, "error", cause)
			}
			item.Problem, item.ID = problem, out.ID
			continue
		}
		urls := urlsOf(out.ID)
		item.ID, item.Replayed, item.URLs, item.Lane, item.Model = out.ID, out.Existing, &urls, out.Lane, out.Model
	}
	body := batchBody{Items: items}
	for _, item := range items {
		if item.Problem == nil {
			body.Accepted++
		} else {
			body.Refused++
		}
	}
	return &batchOutput{body}, nil
}
