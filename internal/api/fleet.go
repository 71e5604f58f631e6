package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/history"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/tasks"
)

func (s *Server) fleetRoutes() {
	tags := []string{"fleet"}
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "plan", Method: http.MethodPost, Path: "/v1/plan", Summary: "Says what tasks would cost and when they would run", Tags: tags,
		Description: "Takes tasks as POST /v1/tasks:batch does. Nothing is accepted, and nothing spent.", MaxBodyBytes: mostMany,
	}, s.plan)
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "listGates", Method: http.MethodGet, Path: "/v1/gates", Summary: "Shows what each model's gate does", Tags: tags,
	}, s.listGates)
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "listWorkers", Method: http.MethodGet, Path: "/v1/workers", Summary: "Lists the worker processes", Tags: tags,
	}, func(ctx context.Context, _ *struct{}) (*workersOutput, error) {
		workers, err := s.monitor.Workers(ctx)
		if err != nil {
			return nil, err
		}
		out := &workersOutput{}
		out.Body.Workers = append([]monitor.Worker{}, workers...)
		return out, nil
	})
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "scaling", Method: http.MethodGet, Path: "/v1/scaling", Summary: "Says how many workers the limits can use, and why", Tags: tags,
		Description: "For an autoscaler such as KEDA's metrics-api scaler with valueLocation workers.",
	}, func(ctx context.Context, _ *struct{}) (*struct{ Body monitor.Scaling }, error) {
		scaling, err := s.monitor.Scaling(ctx, s.cfg.Gate, s.cfg.Gate.PaceOf)
		return &struct{ Body monitor.Scaling }{scaling}, err
	})
	text := &huma.MediaType{Schema: &huma.Schema{Type: "string"}}
	s.handle(route{
		method: http.MethodGet, path: "/v1/health/report", scope: keys.TasksRead,
		doc: &huma.Operation{
			OperationID: "healthReport", Summary: "Says what waits, why, until when, and what to do", Tags: tags,
			Description: "JSON, or by Accept text/plain or text/markdown.",
			Responses: map[string]*huma.Response{"200": {Description: "The report.", Content: map[string]*huma.MediaType{
				"application/json": {Schema: &huma.Schema{Type: "object"}}, "text/plain": text, "text/markdown": text,
			}}},
		},
	}, s.healthReport)
}

type workersOutput struct {
	Body struct {
		Workers []monitor.Worker `json:"workers"`
	}
}

func (s *Server) healthReport(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), bodyTime)
	defer cancel()
	report, err := s.monitor.Report(ctx, s.cfg.Gate)
	if err != nil {
		s.problem(ctx, "healthReport", err).write(w)
		return
	}
	accept, contentType := req.Header.Get("Accept"), "application/json"
	body, err := json.Marshal(report)
	switch {
	case strings.Contains(accept, "text/markdown"):
		contentType, body = "text/markdown; charset=utf-8", []byte(report.Markdown())
	case strings.Contains(accept, "text/plain"):
		contentType, body = "text/plain; charset=utf-8", []byte(report.Text())
	case err != nil:
		s.problem(ctx, "healthReport", err).write(w)
		return
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body)
}

type gatesOutput struct {
	Body struct {
		Gates []gateBody `json:"gates"`
	}
}

// gateBody is a gate in an answer.
type gateBody struct {
	Name        string     `json:"name" doc:"A model, KIND:total or account."`
	State       string     `json:"state" enum:"open,learned,narrow,closed,probing,held"`
	PerMinute   int        `json:"per_minute" doc:"Requests a minute that are set; 0 for account, which has no pace."`
	Source      string     `json:"source" doc:"Where the figure comes from: catalogue, settings, set."`
	Learned     float64    `json:"learned" doc:"Part of the pace that is left after throttling, 0 to 1."`
	InFlight    int        `json:"in_flight"`
	Interactive int        `json:"interactive" doc:"Interactive callers that wait."`
	Bulk        int        `json:"bulk" doc:"Bulk callers that wait."`
	Deferred    int        `json:"deferred" doc:"Tasks that wait outside of workers until the gate has room."`
	Calls       int        `json:"calls"`
	Throttled   int        `json:"throttled" doc:"Answers that said too many requests or no capacity."`
	Reason      string     `json:"reason,omitempty"`
	Until       *time.Time `json:"until" doc:"It is closed until then; null when it is open."`

	Minutes  []gateMinute  `json:"minutes,omitempty" doc:"The latest minutes, oldest first; the last one is not over."`
	Closures []gateClosure `json:"closures,omitempty" doc:"When the gate was closed in these minutes, the latest first. Closures of less than five seconds may be missing."`
}

type gateMinute struct {
	At        time.Time `json:"at"`
	Calls     int       `json:"calls"`
	Throttled int       `json:"throttled" doc:"Answers that said too many requests or no capacity."`
	PerMinute *int      `json:"per_minute" doc:"Calls a minute that the gate allowed; null when that is not known."`
}

type gateClosure struct {
	From   time.Time  `json:"from"`
	Until  *time.Time `json:"until" doc:"null while it is closed."`
	Reason string     `json:"reason"`
}

type gatesInput struct {
	Minutes int `query:"minutes" minimum:"0" maximum:"60" doc:"How many of the latest minutes to show of each gate."`
}

func (s *Server) listGates(ctx context.Context, in *gatesInput) (*gatesOutput, error) {
	f, err := s.monitor.Fleet(ctx, s.cfg.Gate)
	if err != nil {
		return nil, err
	}
	out := &gatesOutput{}
	out.Body.Gates = make([]gateBody, 0, len(f.Gates))
	for _, g := range f.Gates {
		b := gateBody{
			Name: g.Name, State: g.Word(), PerMinute: g.Pace.PerMinute, Source: g.Pace.Source, Learned: g.RateFactor, InFlight: g.InFlight,
			Interactive: g.Interactive, Bulk: g.Bulk, Deferred: f.DeferredAt(g.Name), Calls: g.Calls, Throttled: g.Throttled + g.Busy,
		}
		if g.Closed > 0 {
			until := time.Now().Add(g.Closed).UTC().Truncate(time.Second)
			b.Until = &until
		}
		if g.Word() != "open" {
			b.Reason = g.Why
		}
		out.Body.Gates = append(out.Body.Gates, b)
	}
	if in.Minutes > 0 {
		if err := s.addGateHistory(ctx, out.Body.Gates, in.Minutes); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addGateHistory adds the latest minutes of gates, and their closures in that time.
func (s *Server) addGateHistory(ctx context.Context, gates []gateBody, minutes int) error {
	past, now := history.History{Redis: s.cfg.Redis}, time.Now()
	names := make([]string, 0, len(gates))
	for _, g := range gates {
		if g.Source != "" {
			names = append(names, g.Name)
		}
	}
	spans, err := past.GateMinutes(ctx, names, now, minutes)
	if err != nil {
		return err
	}
	closures, err := past.Closures(ctx, now.Add(-time.Duration(minutes)*time.Minute))
	if err != nil {
		return err
	}
	for i := range gates {
		for _, span := range spans[gates[i].Name] {
			m := gateMinute{At: span.At.UTC(), Calls: span.Calls, Throttled: span.Throttled}
			if span.Pace >= 0 {
				m.PerMinute = &span.Pace
			}
			gates[i].Minutes = append(gates[i].Minutes, m)
		}
		for _, c := range closures {
			if c.Gate != gates[i].Name {
				continue
			}
			closure := gateClosure{From: c.From, Reason: c.Why}
			if !c.Until.IsZero() {
				closure.Until = &c.Until
			}
			gates[i].Closures = append(gates[i].Closures, closure)
		}
	}
	return nil
}

type planInput struct {
	Body struct {
		Tasks []json.RawMessage `json:"tasks" minItems:"1" maxItems:"1000" doc:"Requests as POST /v1/tasks takes them."`
	}
}

type planOutput struct {
	Body planBody
}

type planBody struct {
	Valid   int        `json:"valid"`
	Refused int        `json:"refused"`
	Neurons float64    `json:"neurons" doc:"List price of the tasks whose price can be known before."`
	Dollars float64    `json:"dollars" doc:"The same in dollars, beyond the free allocation of a day."`
	Unknown int        `json:"unknown" doc:"Valid tasks whose price cannot be known before."`
	Items   []planItem `json:"items"`
}

type planItem struct {
	Index   int           `json:"index"`
	Problem *Problem      `json:"problem,omitempty"`
	Model   string        `json:"model,omitempty"`
	Neurons *float64      `json:"neurons" doc:"null when it cannot be known before."`
	Waiting *monitor.View `json:"waiting,omitempty" doc:"What it would wait for now."`
}

func (s *Server) plan(ctx context.Context, in *planInput) (*planOutput, error) {
	tenant := callerOf(ctx).tenant
	body := planBody{Items: make([]planItem, len(in.Body.Tasks))}
	for i, document := range in.Body.Tasks {
		item := &body.Items[i]
		item.Index = i
		r, problem := s.decodeTask(document)
		var request tasks.Request
		if problem == nil {
			request, _, problem = s.request(r, "")
		}
		if problem == nil {
			if err := s.client(tenant).Check(request.Payload, request.Options...); err != nil {
				problem, _ = refusal(err)
			}
		}
		if problem != nil {
			item.Problem = problem
			body.Refused++
			continue
		}
		body.Valid++
		spec, _ := tasks.SpecOf(r.Kind)
		item.Model = cmp.Or(r.Model, spec.Model())
		if neurons, ok := tasks.Estimate(item.Model, request.Payload, r.Input); ok {
			item.Neurons = &neurons
			body.Neurons += neurons
		} else {
			body.Unknown++
		}
		w, err := s.recentOutlook(ctx, tasks.Receipt{Kind: r.Kind, Lane: cmp.Or(r.Lane, tasks.Interactive), Model: item.Model}, 0)
		if err != nil {
			return nil, errors.Join(err)
		}
		item.Waiting = w.View(time.Now())
	}
	body.Dollars = body.Neurons * batch.DollarsPerNeuron
	return &planOutput{body}, nil
}
