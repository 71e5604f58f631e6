package traces_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/traces"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func tracer(t *testing.T) (*traces.Tracer, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	tr, err := traces.New(traces.Config{Exporter: spans, Sync: true})
	require.NoError(t, err)
	return tr, spans
}

func called(task string, rider, riders int) tasks.Event {
	return tasks.Event{Type: tasks.EventCalled, Time: noon, ID: task, Tenant: "shop", Kind: tasks.KindEmbedding, Model: "m", Call: "c1", Outcome: "ok", Took: time.Second, Neurons: 1.5, Rider: rider, Riders: riders}
}

func TestASharedCallHasALinkToEachOfItsTasks(t *testing.T) {
	tr, spans := tracer(t)
	parent := "00-" + strings.Repeat("1f", 16) + "-b7ad6b7169203331-01"
	for i, e := range []tasks.Event{called("t_1", 0, 3), called("t_2", 1, 3), called("t_3", 2, 3)} {
		require.Empty(t, spans.GetSpans(), "not before each task has its event")
		if i == 1 {
			e.Trace = parent
		}
		tr.Observer()(e)
	}
	got := spans.GetSpans()
	require.Len(t, got, 1)
	require.Equal(t, "call m", got[0].Name)
	require.False(t, got[0].Parent.IsValid(), "none of its tasks is its parent alone")
	require.Equal(t, noon.Add(-time.Second), got[0].StartTime)
	require.Len(t, got[0].Links, 3)
	require.Equal(t, strings.Repeat("1f", 16), got[0].Links[1].SpanContext.TraceID().String())
	require.NotEqual(t, got[0].Links[0].SpanContext.TraceID(), got[0].Links[2].SpanContext.TraceID())
	for _, a := range got[0].Attributes {
		require.NotContains(t, string(a.Key), "gen_ai", "experimental attributes are asked for")
		if a.Key == "neuronmill.neurons" {
			require.InDelta(t, 4.5, a.Value.AsFloat64(), 1e-9)
		}
	}
}

func TestSharedCallsWithMissingEventsAreForgotten(t *testing.T) {
	tr, spans := tracer(t)
	for i := range 1000 {
		e := called("t_1", 0, 2)
		e.Call = strings.Repeat("x", i)
		tr.Observer()(e)
	}
	require.Empty(t, spans.GetSpans())
	tr.Observer()(called("t_1", 0, 1))
	require.Len(t, spans.GetSpans(), 1)
}

func TestAFailedTaskHasAFailedSpan(t *testing.T) {
	tr, spans := tracer(t)
	e := tasks.Event{Type: tasks.EventFinished, Time: noon, CreatedAt: noon.Add(-time.Hour), ID: "t_1", Outcome: "failed", Code: tasks.CodeNoCapacity}
	tr.Observer()(e)
	e.Repeated = true
	tr.Observer()(e)
	got := spans.GetSpans()
	require.Len(t, got, 1, "once, and nothing was stored")
	require.Equal(t, codes.Error, got[0].Status.Code)
	require.Equal(t, time.Hour, got[0].EndTime.Sub(got[0].StartTime))
	damaged := e
	damaged.Repeated, damaged.Trace = false, "00-damaged"
	tr.Observer()(damaged)
	require.Equal(t, got[0].SpanContext.TraceID(), spans.GetSpans()[1].SpanContext.TraceID(), "a trace context that is none counts as missing")
}

func TestRequestsThatOnlyLookHaveNoSpan(t *testing.T) {
	tr, spans := tracer(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/tasks", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		tr.Wrap(mux).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), method, "/v1/tasks", nil))
	}
	got := spans.GetSpans()
	require.Len(t, got, 1)
	require.Equal(t, codes.Error, got[0].Status.Code)
}

func TestWithoutAnEndpointThereAreNoTraces(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	tr, err := traces.FromEnv(t.Context(), "v1", nil)
	require.NoError(t, err)
	require.Nil(t, tr)
	require.Nil(t, tr.Observer())
	require.NoError(t, tr.Close())
	h := http.NotFoundHandler()
	require.NotNil(t, tr.Wrap(h))
}
