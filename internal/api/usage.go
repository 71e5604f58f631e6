package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/tasks"
)

func (s *Server) usageRoutes() {
	jsonRoute(s, keys.UsageRead, huma.Operation{
		OperationID: "usage", Method: http.MethodGet, Path: "/v1/usage", Summary: "Says what tasks have cost", Tags: []string{"fleet"},
		Description: "Neurons and dollars of the tasks of the key's tenant that have ended, by day in UTC, of the last 40 days.",
	}, s.usage)
}

type usageInput struct {
	Day  string `query:"day" maxLength:"10" doc:"The last day, in UTC; today when empty." example:"2026-11-27"`
	Days int    `query:"days" minimum:"1" maximum:"40" default:"1" doc:"How many days until then."`
	By   string `query:"by" enum:"day,model,key,batch,schedule" doc:"What the rows are; model for one day, day for several when empty."`
}

func (s *Server) usage(ctx context.Context, in *usageInput) (*struct{ Body usage.Report }, error) {
	ledger := &usage.Ledger{Redis: s.cfg.Redis}
	report, err := ledger.Report(ctx, usage.Query{Tenant: callerOf(ctx).tenant, Last: in.Day, Days: in.Days, By: usage.Dimension(in.By)}, time.Now())
	if invalid, ok := errors.AsType[usage.InvalidQuery](err); ok {
		field, message, _ := strings.Cut(invalid.Error(), ": ")
		return nil, newProblem(tasks.CodePayloadInvalid, "", FieldError{Field: field, Message: message})
	}
	return &struct{ Body usage.Report }{report}, err
}
