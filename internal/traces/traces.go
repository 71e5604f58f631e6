// Package traces makes OpenTelemetry traces of tasks, from their events. The trace context of
// the producer travels with the task (tasks.Task.Trace), so that the spans of the worker belong
// to the trace of the request that was accepted.
//
// The spans of a task are the time in its queue, the time at the gate, each call, the time until
// the output is stored, and the task as a whole. A call that several tasks share has a trace of
// its own, with a link to each task: none of them is its parent alone.
//
// The OTLP exporter and the sampler heed the environment variables of the OpenTelemetry
// specification (https://opentelemetry.io/docs/specs/otel/protocol/exporter/). Attributes of the
// conventions for generative AI are experimental and are set only when
// OTEL_SEMCONV_STABILITY_OPT_IN contains gen_ai_latest_experimental.
package traces

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Tracer makes spans. A nil Tracer makes none.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	genAI    bool // attributes of the experimental conventions are set

	mu    sync.Mutex
	calls map[string][]tasks.Event // of calls that several tasks share, until each has its event
}

// mostCalls bounds the shared calls of which events are missing.
const mostCalls = 256

// Config has the settings of a Tracer.
type Config struct {
	Exporter sdktrace.SpanExporter
	Version  string // of the program; may be empty
	GenAI    bool   // set the experimental gen_ai attributes
	Sync     bool   // export each span at once, for tests
}

// FromEnv returns a Tracer that exports by OTLP over HTTP, or nil when no endpoint is set or
// OTEL_SDK_DISABLED is true. Failures to export are logged. The caller must call Close.
func FromEnv(ctx context.Context, version string, log *slog.Logger) (*Tracer, error) {
	if cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) == "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: check OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	logFailures(log)
	return New(Config{Exporter: exporter, Version: version, GenAI: slices.Contains(strings.Split(os.Getenv("OTEL_SEMCONV_STABILITY_OPT_IN"), ","), "gen_ai_latest_experimental")})
}

// New returns a Tracer. The caller must call Close.
func New(c Config) (*Tracer, error) {
	about, err := resource.Merge(resource.NewSchemaless(attribute.String("service.name", "neuronmill"), attribute.String("service.version", cmp.Or(c.Version, "dev"))), resource.Environment())
	if err != nil {
		return nil, fmt.Errorf("traces: check OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	export := sdktrace.WithSyncer(c.Exporter)
	if !c.Sync {
		export = sdktrace.WithBatcher(c.Exporter)
	}
	provider := sdktrace.NewTracerProvider(export, sdktrace.WithResource(about))
	return &Tracer{provider: provider, tracer: provider.Tracer("neuronmill"), genAI: c.GenAI, calls: map[string][]tasks.Event{}}, nil
}

// Close exports the remaining spans, for at most five seconds.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// Observer returns the observer of a worker's tasks; nil for a nil Tracer.
func (t *Tracer) Observer() tasks.Observer {
	if t == nil {
		return nil
	}
	return t.observe
}

func (t *Tracer) observe(e tasks.Event) {
	switch e.Type {
	case tasks.EventStarted:
		came := e.Time.Add(-e.Waited)
		t.span(e, "queue", came.Add(-e.Queued), came)
		t.span(e, "gate wait", came, e.Time, attribute.Int64("neuronmill.gate.waited_ms", e.Waited.Milliseconds()))
	case tasks.EventCalled:
		if e.Riders <= 1 {
			t.call([]tasks.Event{e})
		} else if all := t.collect(e); all != nil {
			t.call(all)
		}
	case tasks.EventFinished:
		if e.Repeated {
			return
		}
		if tasks.Status(e.Outcome) == tasks.Completed {
			t.span(e, "store", e.Time.Add(-e.Stored), e.Time)
		}
		t.span(e, "task", e.CreatedAt, e.Time, attribute.String("neuronmill.task.status", e.Outcome), attribute.Float64("neuronmill.neurons", e.Neurons))
	}
}

// collect keeps the event of a shared call. It returns the events of all its tasks once there
// are all.
func (t *Tracer) collect(e tasks.Event) []tasks.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := append(t.calls[e.Call], e)
	if len(all) >= e.Riders {
		delete(t.calls, e.Call)
		return all
	}
	if len(t.calls) >= mostCalls { // events were dropped
		for id := range maps.Keys(t.calls) {
			delete(t.calls, id)
			break
		}
	}
	t.calls[e.Call] = all
	return nil
}

// span makes a span of a task.
func (t *Tracer) span(e tasks.Event, name string, from, to time.Time, more ...attribute.KeyValue) {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), contextOf(e))
	_, s := t.tracer.Start(ctx, name, trace.WithTimestamp(from), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(about(e)...), trace.WithAttributes(more...))
	if e.Type == tasks.EventFinished && e.Code != "" {
		s.SetStatus(codes.Error, e.Code)
		s.SetAttributes(attribute.String("error.type", e.Code))
	}
	s.End(trace.WithTimestamp(to))
}

// call makes the span of a call, from the events of the tasks that share it.
func (t *Tracer) call(riders []tasks.Event) {
	e, neurons := riders[0], 0.0
	ctx := context.Background()
	options := []trace.SpanStartOption{
		trace.WithTimestamp(e.Time.Add(-e.Took)), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.Int("neuronmill.call.tasks", max(e.Riders, 1))),
	}
	if len(riders) == 1 && e.Riders <= 1 {
		ctx = trace.ContextWithRemoteSpanContext(ctx, contextOf(e))
		options = append(options, trace.WithAttributes(about(e)...))
	} else {
		options = append(options, trace.WithAttributes(attribute.String("neuronmill.kind", string(e.Kind)), attribute.String("neuronmill.lane", string(e.Lane))))
	}
	for _, r := range riders {
		neurons += r.Neurons
		if e.Riders > 1 {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: contextOf(r), Attributes: []attribute.KeyValue{attribute.String("neuronmill.task.id", r.ID)}}))
		}
	}
	_, s := t.tracer.Start(ctx, "call "+e.Model, options...)
	s.SetAttributes(attribute.Float64("neuronmill.neurons", neurons))
	if t.genAI {
		s.SetAttributes(genAI(e)...)
	}
	if e.Outcome != "ok" {
		reason := cmp.Or(e.Code, e.Outcome)
		s.SetStatus(codes.Error, e.Outcome)
		s.SetAttributes(attribute.String("error.type", reason))
	}
	s.End(trace.WithTimestamp(e.Time))
}

func about(e tasks.Event) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("neuronmill.task.id", e.ID), attribute.String("neuronmill.kind", string(e.Kind)), attribute.String("neuronmill.lane", string(e.Lane)),
		attribute.Int("neuronmill.attempt", e.Attempt),
	}
}

// operations are the names of the conventions, or own ones where those have none.
var operations = map[tasks.Kind]string{tasks.KindText: "chat", tasks.KindEmbedding: "embeddings", tasks.KindImage: "generate_content"}

// genAI returns the attributes of a call by the conventions for generative AI.
func genAI(e tasks.Event) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.String("gen_ai.operation.name", cmp.Or(operations[e.Kind], string(e.Kind))), attribute.String("gen_ai.provider.name", "cloudflare.workers_ai"),
		attribute.String("gen_ai.request.model", e.Model),
	}
	if e.InputTokens > 0 || e.OutputTokens > 0 {
		list = append(list, attribute.Int("gen_ai.usage.input_tokens", e.InputTokens), attribute.Int("gen_ai.usage.output_tokens", e.OutputTokens))
	}
	return list
}

// Traceparent returns the span of ctx as a traceparent; empty without a span. It is for
// tasks.Config.Trace.
func Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// contextOf returns the span under which the spans of a task are. Without one of the producer it
// is derived from the task's id, so that all workers agree on the trace.
func contextOf(e tasks.Event) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": e.Trace})
	if c := trace.SpanContextFromContext(ctx); c.IsValid() {
		return c
	}
	sum := sha256.Sum256([]byte("neuronmill task " + e.Tenant + "/" + e.ID))
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24]), TraceFlags: trace.FlagsSampled, Remote: true})
}
