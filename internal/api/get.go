package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

type getInput struct {
	ID          string `path:"id" maxLength:"200"`
	Wait        int    `query:"wait" minimum:"0" maximum:"60" doc:"Seconds to wait for the end."`
	IfNoneMatch string `header:"If-None-Match" doc:"ETag of an earlier answer."`
}

func (s *Server) getTask(ctx context.Context, in *getInput) (*taskOutput, error) {
	client := s.client(callerOf(ctx).tenant)
	info, err := s.find(ctx, client, in.ID)
	if err != nil {
		return nil, err
	}
	unchanged := func() bool { return matchesETag(in.IfNoneMatch, etagOf(shortBody(info))) }
	if wait := time.Duration(in.Wait) * time.Second; wait > 0 && info.Result == nil {
		switch {
		case in.IfNoneMatch != "" && unchanged():
			info, err = s.awaitChange(ctx, client, info, wait)
		case in.IfNoneMatch == "":
			var r *tasks.Result
			if r, err = s.await(ctx, client, in.ID, wait); err == nil && r == nil {
				info, err = s.find(ctx, client, in.ID)
			} else if r != nil {
				info.Result, info.State, info.Attempts = r, string(r.Status), r.Attempts
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if unchanged() {
		return &taskOutput{Status: http.StatusNotModified, ETag: etagOf(shortBody(info))}, nil // timedWriter leaves the body out
	}
	body, err := s.body(ctx, info)
	if err != nil {
		return nil, err
	}
	return &taskOutput{Status: http.StatusOK, ETag: etagOf(body), Body: body}, nil
}

// matchesETag compares weakly, as If-None-Match wants (RFC 9110, 13.1.2).
func matchesETag(header, tag string) bool {
	if strings.TrimSpace(header) == "*" {
		return true
	}
	for part := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(part), "W/") == tag {
			return true
		}
	}
	return false
}

// await waits for the end of a task. It returns nil when the time is over.
func (s *Server) await(ctx context.Context, client *tasks.Client, id string, most time.Duration) (*tasks.Result, error) {
	inner, cancel := s.waitContext(ctx, most)
	defer cancel()
	r, err := client.Wait(inner, id)
	if err != nil && inner.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return r, err
}

// awaitChange waits until the state or the attempt of a task changes.
func (s *Server) awaitChange(ctx context.Context, client *tasks.Client, info tasks.Info, most time.Duration) (tasks.Info, error) {
	inner, cancel := s.waitContext(ctx, most)
	defer cancel()
	tag := etagOf(shortBody(info))
	for pause := 100 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		select {
		case <-inner.Done():
			return info, ctx.Err()
		case <-time.After(pause):
		}
		now, err := s.find(inner, client, info.ID)
		switch {
		case inner.Err() != nil:
			return info, ctx.Err()
		case err != nil:
			return info, err
		case etagOf(shortBody(now)) != tag:
			return now, nil
		}
	}
}
