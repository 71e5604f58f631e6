package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/budget"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/usage"
	"github.com/neuronmill/neuronmill/tasks"
)

// Caps are of the whole fleet, so all routes need a scope of their own.
func (s *Server) budgetRoutes() {
	tags := []string{"fleet"}
	jsonRoute(s, keys.BudgetsWrite, huma.Operation{
		OperationID: "listBudgets", Method: http.MethodGet, Path: "/v1/budgets", Summary: "Lists the caps on the cost of a day, and what was spent today", Tags: tags,
		Description: "The caps of all tenants.",
	}, func(ctx context.Context, _ *struct{}) (*budgetsOutput, error) { return s.budgets(ctx) })
	jsonRoute(s, keys.BudgetsWrite, huma.Operation{
		OperationID: "setBudget", Method: http.MethodPut, Path: "/v1/budgets", Summary: "Adds or changes a cap", Tags: tags,
		Description: "Workers follow within seconds. Tasks that wait for a cap go on within a minute once it is raised.",
	}, s.setBudget)
	jsonRoute(s, keys.BudgetsWrite, huma.Operation{
		OperationID: "removeBudget", Method: http.MethodDelete, Path: "/v1/budgets", Summary: "Removes a cap", Tags: tags, DefaultStatus: http.StatusNoContent,
	}, func(ctx context.Context, in *removeBudgetInput) (*struct{}, error) {
		err := s.caps().Remove(ctx, in.Scope, in.Name)
		if errors.Is(err, budget.ErrNotFound) {
			return nil, newProblem(codeBudgetNotFound, "")
		}
		return nil, err
	})
}

func (s *Server) caps() *budget.Caps { return &budget.Caps{Redis: s.cfg.Redis, Store: s.cfg.Store} }

// capBody is a cap with the neurons spent today.
type capBody struct {
	budget.Cap
	Spent    float64 `json:"spent" doc:"Neurons of today, in UTC."`
	Reserved float64 `json:"reserved" doc:"For calls under way, at the highest price they can have."`
}

type budgetsOutput struct {
	Body struct {
		Budgets []capBody `json:"budgets"`
	}
}

func (s *Server) budgets(ctx context.Context) (*budgetsOutput, error) {
	all, err := s.caps().List(ctx)
	if err != nil {
		return nil, err
	}
	spent, reserved, err := budget.Spent(ctx, s.cfg.Redis, all, time.Now())
	if err != nil {
		return nil, err
	}
	out := &budgetsOutput{}
	out.Body.Budgets = make([]capBody, len(all))
	for i, c := range all {
		out.Body.Budgets[i] = capBody{c, spent[i], reserved[i]}
	}
	return out, nil
}

type setBudgetInput struct {
	Body struct {
		Scope   budget.Scope `json:"scope" enum:"account,bulk,tenant,key,free" doc:"Whose calls. bulk caps what bulk tasks may add to the calls of all others, free what tasks may that spend the free allocation only."`
		Name    string       `json:"name,omitempty" maxLength:"64" doc:"Of the tenant, or the id of the key; only with these."`
		Neurons float64      `json:"neurons" minimum:"0" maximum:"1000000000" doc:"Most neurons of a day, in UTC." example:"10000"`
		Over    budget.Over  `json:"over,omitempty" enum:"wait,fail" default:"wait" doc:"Tasks over the cap wait until 00:00 UTC, or fail with budget_exceeded."`
	}
}

func (s *Server) setBudget(ctx context.Context, in *setBudgetInput) (*budgetsOutput, error) {
	c := budget.Cap{Scope: in.Body.Scope, Name: in.Body.Name, Neurons: in.Body.Neurons, Over: in.Body.Over}
	if c.Over == "" {
		c.Over = budget.Wait
	}
	if err := c.Validate(); err != nil {
		field, message, _ := strings.Cut(err.Error(), ": ")
		return nil, newProblem(tasks.CodePayloadInvalid, "", FieldError{Field: field, Message: message})
	}
	if err := (&usage.Ledger{Redis: s.cfg.Redis}).SetCap(ctx, s.caps(), c, time.Now()); err != nil {
		return nil, err
	}
	return s.budgets(ctx)
}

type removeBudgetInput struct {
	Scope budget.Scope `query:"scope" required:"true" enum:"account,bulk,tenant,key,free"`
	Name  string       `query:"name" maxLength:"64"`
}
