package openaibatch

import (
	"time"

	"github.com/neuronmill/neuronmill/internal/batch"
)

// The states of a batch.
const (
	validating = "validating"
	failed     = "failed"
	inProgress = "in_progress"
	finalizing = "finalizing"
	completed  = "completed"
	expired    = "expired"
	cancelling = "cancelling"
	cancelled  = "cancelled"
)

// Object is a batch in OpenAI's form. Times are Unix seconds.
type Object struct {
	ID               string            `json:"id"`
	Object           string            `json:"object"` // batch
	Endpoint         string            `json:"endpoint"`
	Model            string            `json:"model,omitempty"` // if all lines have the same
	Errors           *ErrorList        `json:"errors"`
	InputFileID      string            `json:"input_file_id"`
	CompletionWindow string            `json:"completion_window"`
	Status           string            `json:"status"`
	OutputFileID     *string           `json:"output_file_id"`
	ErrorFileID      *string           `json:"error_file_id"`
	CreatedAt        int64             `json:"created_at"`
	InProgressAt     *int64            `json:"in_progress_at"`
	ExpiresAt        *int64            `json:"expires_at"`
	FinalizingAt     *int64            `json:"finalizing_at"`
	CompletedAt      *int64            `json:"completed_at"`
	FailedAt         *int64            `json:"failed_at"`
	ExpiredAt        *int64            `json:"expired_at"`
	CancellingAt     *int64            `json:"cancelling_at"`
	CancelledAt      *int64            `json:"cancelled_at"`
	RequestCounts    RequestCounts     `json:"request_counts"`
	Usage            *Usage            `json:"usage,omitempty"` // of an ended batch
	Metadata         map[string]string `json:"metadata"`
}

// RequestCounts are lines by their end.
type RequestCounts struct {
	Total     int `json:"total"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

// ErrorList has the reasons why a file was refused.
type ErrorList struct {
	Object string      `json:"object"` // list
	Data   []LineError `json:"data"`
}

// LineError is one reason.
type LineError struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    *int    `json:"line"` // from 1; nil if the file as a whole is at fault
}

// Usage are the tokens of all lines.
type Usage struct {
	InputTokens        int           `json:"input_tokens"`
	InputTokensDetails cachedTokens  `json:"input_tokens_details"`
	OutputTokens       int           `json:"output_tokens"`
	OutputDetails      reasonedUsage `json:"output_tokens_details"`
	TotalTokens        int           `json:"total_tokens"`
}

type (
	cachedTokens struct {
		Cached int `json:"cached_tokens"`
	}
	reasonedUsage struct {
		Reasoning int `json:"reasoning_tokens"`
	}
)

func unix(t time.Time) *int64 {
	n := t.Unix()
	return &n
}

// object returns the batch as it was just accepted.
func (r *request) object() *Object {
	return &Object{
		ID: r.ID, Object: "batch", Endpoint: r.Endpoint, InputFileID: r.InputFileID, CompletionWindow: r.Window, Status: validating,
		CreatedAt: r.CreatedAt.Unix(), ExpiresAt: unix(r.expiresAt()), Metadata: r.Metadata,
	}
}

// runs adds the state of a batch whose file was accepted.
func (o *Object) runs(s *batch.State) {
	o.Status, o.InProgressAt = inProgress, unix(s.CreatedAt)
	o.RequestCounts = RequestCounts{Total: s.Lines, Completed: s.Completed, Failed: s.Failed}
	if !s.EndedAt.IsZero() {
		o.Status, o.FinalizingAt = finalizing, unix(s.EndedAt)
	}
	o.Model = modelOf(&s.Batch)
}

// modelOf returns the model of all lines, or an empty string.
func modelOf(d *batch.Batch) string {
	if len(d.Demands) != 1 {
		return ""
	}
	return d.Demands[0].Model
}

func (o *Object) ended() bool {
	return o.Status == completed || o.Status == failed || o.Status == expired || o.Status == cancelled
}

// end sets the last state.
func (o *Object) end(status string, at time.Time) {
	o.Status = status
	switch status {
	case completed:
		o.CompletedAt = unix(at)
	case failed:
		o.FailedAt = unix(at)
	case expired:
		o.ExpiredAt = unix(at)
	case cancelled:
		o.CancelledAt = unix(at)
	}
}
