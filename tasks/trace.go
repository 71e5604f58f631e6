package tasks

import (
	"context"

	"go.opentelemetry.io/otel/trace"
)

// traceOf returns the span of ctx as a traceparent; empty without a span.
func traceOf(ctx context.Context) string {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return ""
	}
	return "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + span.TraceFlags().String()
}
