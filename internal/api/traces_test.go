package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/traces"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// traced is a server and a worker whose spans are kept.
type traced struct {
	*bench
	spans *tracetest.InMemoryExporter
}

func withTraces(t *testing.T, test func(*testing.T, *traced)) {
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewInMemoryExporter()
		tracer, err := traces.New(traces.Config{Exporter: spans, GenAI: true, Sync: true})
		require.NoError(t, err)
		b := newUnservedBench(t, Config{Tracer: tracer})
		defer b.stop()
		defer func() { require.NoError(t, tracer.Close()) }()
		test(t, &traced{b, spans})
	})
}

func (b *traced) post(body, traceparent string) {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodPost, "/v1/tasks", strings.NewReader(body))
	r.Host = "127.0.0.1"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Traceparent", traceparent)
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	require.Equal(b.t, http.StatusAccepted, w.Code, w.Body.String())
}

func attributesOf(s tracetest.SpanStub) map[string]any {
	all := map[string]any{}
	for _, a := range s.Attributes {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
)

func TestOneTraceLeadsFromTheRequestToTheStoredResult(t *testing.T) {
	withTraces(t, func(t *testing.T, b *traced) {
		b.post(`{"kind":"text","input":{"prompt":"hi"}}`, "00-"+callersTrace+"-"+callersSpan+"-01")
		time.Sleep(2 * time.Second) // it waits in the queue
		b.withWorker(func() { time.Sleep(time.Minute) })
		var names []string
		spans := map[string]tracetest.SpanStub{}
		for _, s := range b.spans.GetSpans() {
			names = append(names, s.Name)
			spans[s.Name] = s
			require.Equal(t, callersTrace, s.SpanContext.TraceID().String(), s.Name)
			if s.Name != "accept" {
				require.Equal(t, spans["accept"].SpanContext.SpanID(), s.Parent.SpanID(), s.Name)
			}
		}
		slices.Sort(names)
		call := names[1]
		require.Equal(t, []string{"accept", call, "gate wait", "queue", "store", "task"}, names)
		require.True(t, strings.HasPrefix(call, "call @cf/"), call)
		require.Equal(t, callersSpan, spans["accept"].Parent.SpanID().String())
		require.Equal(t, "POST /v1/tasks", attributesOf(spans["accept"])["http.route"])
		require.GreaterOrEqual(t, spans["queue"].EndTime.Sub(spans["queue"].StartTime), 2*time.Second)
		about := attributesOf(spans[call])
		require.Equal(t, "chat", about["gen_ai.operation.name"])
		require.Equal(t, strings.TrimPrefix(call, "call "), about["gen_ai.request.model"])
		require.Positive(t, about["gen_ai.usage.output_tokens"])
		require.Positive(t, about["neuronmill.neurons"])
		for _, s := range spans {
			require.NotEqual(t, codes.Error, s.Status.Code, s.Name)
			require.False(t, s.EndTime.Before(s.StartTime), s.Name)
		}
	})
}

// TestEveryCallBelongsToTheRequestsThatItServes: tasks may share a call or not. A shared one is
// linked to each, one of its own is a child of the request.
func TestEveryCallBelongsToTheRequestsThatItServes(t *testing.T) {
	withTraces(t, func(t *testing.T, b *traced) {
		for i := range 5 {
			b.post(`{"kind":"embedding","input":{"texts":["`+strings.Repeat("x", i+1)+`"]}}`, "")
		}
		b.withWorker(func() { time.Sleep(time.Minute) })
		accepted, served := map[string]bool{}, map[string]bool{}
		of := func(c trace.SpanContext) string { return c.TraceID().String() + c.SpanID().String() }
		for _, s := range b.spans.GetSpans() {
			switch {
			case s.Name == "accept":
				accepted[of(s.SpanContext)] = true
			case strings.HasPrefix(s.Name, "call ") && len(s.Links) > 0:
				require.False(t, s.Parent.IsValid(), "none of its tasks is its parent alone")
				require.EqualValues(t, len(s.Links), attributesOf(s)["neuronmill.call.tasks"])
				for _, l := range s.Links {
					served[of(l.SpanContext)] = true
				}
			case strings.HasPrefix(s.Name, "call "):
				served[of(s.Parent)] = true
			}
		}
		require.Len(t, accepted, 5)
		require.Equal(t, accepted, served)
	})
}

func TestATaskWithoutATraceOfItsProducerHasOne(t *testing.T) {
	withTraces(t, func(t *testing.T, b *traced) {
		_, err := b.client("default").Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
		require.NoError(t, err)
		b.withWorker(func() { time.Sleep(time.Minute) })
		of := map[string]bool{}
		for _, s := range b.spans.GetSpans() {
			of[s.SpanContext.TraceID().String()] = true
		}
		require.Len(t, of, 1)
	})
}
