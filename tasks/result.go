package tasks

import (
	"encoding/json"
	"time"
)

// Status of a Result.
type Status string

// A result is one or the other, for ever.
const (
	Completed Status = "completed"
	Failed    Status = "failed"
)

// Result is the end of a task: the document result.json, written once.
type Result struct {
	ID         string            `json:"id"`
	Kind       Kind              `json:"kind"`
	Status     Status            `json:"status"`
	Model      string            `json:"model"`
	Output     json.RawMessage   `json:"output,omitempty"` // per kind: TextOutput and its like; absent when failed
	Artefacts  []Artefact        `json:"artefacts"`
	Usage      Usage             `json:"usage"`
	Error      *Failure          `json:"error"`
	CreatedAt  time.Time         `json:"created_at"`
	StartedAt  *time.Time        `json:"started_at"` // nil when it never started
	FinishedAt time.Time         `json:"finished_at"`
	Attempts   int               `json:"attempts"`
	Metadata   map[string]string `json:"metadata"`
	Digest     string            `json:"digest,omitempty"` // of the task, so that an idempotency key is not reused for other work
}

// Artefact is a file that lies beside the result.
type Artefact struct {
	Key         string `json:"key"`
	ContentType string `json:"content_type"`
	Bytes       int64  `json:"bytes"`
	SHA256      string `json:"sha256"` // hex
}

// Usage is what a task cost.
type Usage struct {
	Neurons float64 `json:"neurons"` // from the API's header, else estimated from the price list
	Calls   int     `json:"calls"`   // calls sent for this task over all attempts
	// Unsettled is how many of the calls may have been billed although their answer
	// is not in this result: a worker died or the answer was lost on the way.
	Unsettled int `json:"unsettled,omitempty"`
	// CountedSince is set when Redis lost the task meanwhile: calls sent before it are
	// not known.
	CountedSince time.Time `json:"counted_since,omitzero"`
}

// Failure says why a task failed.
type Failure struct {
	Code    string `json:"code"`    // stable snake_case: payload_invalid, deadline_exceeded, ...
	Message string `json:"message"` // one clean line
}

func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// TranscriptionOutput is the output of a transcription. Times are seconds.
type TranscriptionOutput struct {
	Text     string    `json:"text"`
	Language string    `json:"language,omitempty"`
	Duration float64   `json:"duration_s,omitempty"`
	Segments []Segment `json:"segments,omitempty"`
	Words    []Word    `json:"words,omitempty"`
}

// Segment is a stretch of speech.
type Segment struct {
	Start float64 `json:"start"`
	End   float64 `json:"end"`
	Text  string  `json:"text"`
}

// Word is one spoken word.
type Word struct {
	Word  string  `json:"word"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

// ImageOutput is the output of an image task; Image is the artefact's key.
type ImageOutput struct {
	Image       string `json:"image"`
	ContentType string `json:"content_type"`
	Width       int    `json:"width"`
	Height      int    `json:"height"`
}

// TranslationOutput is the output of a translation.
type TranslationOutput struct {
	TranslatedText string `json:"translated_text"`
}

// EmbeddingOutput is the output of an embedding: one vector a text, in their order.
type EmbeddingOutput struct {
	Dimensions int         `json:"dimensions"`
	Vectors    [][]float32 `json:"vectors"`
}

// TextOutput is the output of a text task.
type TextOutput struct {
	Text         string     `json:"text"`
	ToolCalls    []ToolCall `json:"tool_calls,omitempty"`
	Reasoning    string     `json:"reasoning,omitempty"`
	FinishReason string     `json:"finish_reason,omitempty"`
}

// ToolCall is a call the model asks for; Arguments is a JSON object whatever shape
// the model answered in.
type ToolCall struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}
