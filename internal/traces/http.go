package traces

import (
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Wrap makes a span of each request that may accept or change something, as a child of the
// caller's (https://www.w3.org/TR/trace-context/). Requests that only look have none: pollers
// would fill the traces. A nil Tracer returns the handler itself.
func (t *Tracer) Wrap(h http.Handler) http.Handler {
	if t == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions {
			h.ServeHTTP(w, r)
			return
		}
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, s := t.tracer.Start(ctx, "accept", trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("http.request.method", r.Method)))
		defer s.End()
		answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		r = r.WithContext(ctx)
		h.ServeHTTP(answer, r)
		s.SetAttributes(attribute.String("http.route", r.Pattern), attribute.Int("http.response.status_code", answer.status))
		if answer.status >= http.StatusInternalServerError {
			s.SetStatus(codes.Error, http.StatusText(answer.status))
		}
	})
}

// statusWriter keeps the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the writer.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// logFailures logs the failures of the exporter, at most one a minute.
func logFailures(log *slog.Logger) {
	said := make(chan time.Time, 1)
	said <- time.Time{}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		last := <-said
		if time.Since(last) >= time.Minute {
			log.Warn("traces not exported", "error", err)
			last = time.Now()
		}
		said <- last
	}))
}
