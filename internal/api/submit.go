package api

import (
	"cmp"
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

type submitInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"The same key with the same body gives the same task, however often it is sent."`
	Prefer         string `header:"Prefer" doc:"wait=20 waits up to so many seconds for the end, at most 60."`
	Body           taskRequest
}

func (s *Server) submit(ctx context.Context, in *submitInput) (*taskOutput, error) {
	wait, problem := preferredWait(in.Prefer)
	if problem != nil {
		return nil, problem
	}
	return s.submitOne(ctx, in.Body, in.IdempotencyKey, wait)
}

// submitOne accepts a task, and waits for its end if the caller prefers that.
func (s *Server) submitOne(ctx context.Context, r taskRequest, headerKey string, wait time.Duration) (*taskOutput, error) {
	request, maxWait, problem := s.request(r, headerKey)
	if problem != nil {
		return nil, problem
	}
	if problem, err := s.wouldWait(ctx, r, maxWait); problem != nil || err != nil {
		return nil, cmp.Or[error](orNil(problem), err)
	}
	caller := callerOf(ctx)
	client := s.client(caller.tenant)
	receipt, err := client.Enqueue(ctx, request.Payload, append(request.Options, tasks.WithAPIKey(caller.keyID))...)
	if err != nil {
		problem, cause := refusal(err)
		if cause != nil {
			s.log.Warn("task not accepted", "code", problem.Code, "error", cause)
		}
		problem.task = receipt.ID
		return nil, problem
	}
	out := &taskOutput{Status: http.StatusAccepted, Location: "/v1/tasks/" + receipt.ID}
	if receipt.Existing {
		out.Replayed = "true"
	}
	parsed(ctx)
	if wait > 0 {
		out.PreferenceApplied = "wait"
		if r, err := s.await(ctx, client, receipt.ID, wait); err == nil && r != nil {
			out.Status, out.Body = http.StatusOK, endedBody(r)
			out.ETag = etagOf(out.Body)
			return out, nil
		}
	}
	if receipt.Existing || wait > 0 {
		out.Body, err = s.taskOf(ctx, client, receipt.ID)
		if err == nil && out.Body.FinishedAt != nil {
			out.Status = http.StatusOK
		}
	}
	if err != nil || !receipt.Existing && wait == 0 {
		out.Body = s.newBody(ctx, r, receipt)
	}
	out.ETag = etagOf(out.Body)
	return out, nil
}

// orNil keeps a nil *Problem from becoming an error that is not nil.
func orNil(p *Problem) error {
	if p == nil {
		return nil
	}
	return p
}

var waitPreference = regexp.MustCompile(`^wait=(\d{1,4})$`)

// preferredWait reads the header Prefer. Preferences that are not known are ignored, as RFC
// 7240 says.
func preferredWait(header string) (time.Duration, *Problem) {
	for part := range strings.SplitSeq(header, ",") {
		if m := waitPreference.FindStringSubmatch(strings.ReplaceAll(strings.TrimSpace(part), " ", "")); m != nil {
			d, _ := time.ParseDuration(m[1] + "s")
			return min(d, mostWait), nil
		}
	}
	return 0, nil
}
