package tasks

import (
	"encoding/json"
	"math"
	"time"
)

// Status is the final state of a task.
type Status string

// The status of a result never changes.
const (
	Completed Status = "completed"
	Failed    Status = "failed"
)

// Result is the document that ends a task: result.json, written once.
type Result struct {
	ID         string            `json:"id"`
	Kind       Kind              `json:"kind"`
	Status     Status            `json:"status"`
	Model      string            `json:"model"`
	Output     json.RawMessage   `json:"output,omitempty"` // depends on the kind, for example TextOutput; absent when failed
	Artefacts  []Artefact        `json:"artefacts"`
	Usage      Usage             `json:"usage"`
	Error      *TaskError        `json:"error"`
	CreatedAt  time.Time         `json:"created_at"`
	StartedAt  *time.Time        `json:"started_at"` // nil if the task never started
	FinishedAt time.Time         `json:"finished_at"`
	Attempts   int               `json:"attempts"`
	Metadata   map[string]string `json:"metadata"`
	Origin     Origin            `json:"origin,omitzero"`
	Digest     string            `json:"digest,omitempty"` // digest of the task, so that an idempotency key is not reused for another payload
}

// Artefact is a file beside the result.
type Artefact struct {
	Key         string `json:"key"`
	ContentType string `json:"content_type"`
	Bytes       int64  `json:"bytes"`
	SHA256      string `json:"sha256"` // hex
}

// Usage is the cost of a task.
type Usage struct {
	// Neurons is the price of all calls, including those with lost answers. It is the
	// price that the API stated, or an estimate by the price list.
	Neurons float64 `json:"neurons"`
	Calls   int     `json:"calls"` // calls sent for this task in all attempts
	// Unsettled counts calls that may have been billed, but whose price is not in
	// Neurons: a worker crashed, or the connection broke before the price arrived.
	Unsettled int `json:"unsettled,omitempty"`
	// CountedSince is set if Redis lost the task meanwhile. Calls sent before that time
	// are not counted.
	CountedSince time.Time `json:"counted_since,omitzero"`
}

// MicroNeurons returns Neurons in millionths, rounded. The sums of whole numbers do not
// depend on their order.
func (u Usage) MicroNeurons() int64 { return int64(math.Round(u.Neurons * 1e6)) }

// TaskError is the reason why a task failed.
type TaskError struct {
	Code    string `json:"code"`    // stable snake_case: payload_invalid, deadline_exceeded, ...
	Message string `json:"message"` // one line of clean text
}

func (f *TaskError) Error() string { return f.Code + ": " + f.Message }

// TranscriptionOutput is the output of a transcription. Times are in seconds.
type TranscriptionOutput struct {
	Text     string    `json:"text"`
	Language string    `json:"language,omitempty"`
	Duration float64   `json:"duration_s,omitempty"`
	Segments []Segment `json:"segments,omitempty"`
	Words    []Word    `json:"words,omitempty"`
}

// Segment is a section of speech.
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

// EmbeddingOutput is the output of an embedding: one vector per text, in the same order.
type EmbeddingOutput struct {
	Dimensions int         `json:"dimensions"`
	Vectors    [][]float32 `json:"vectors"`
}

// TextOutput is the output of a text task.
type TextOutput struct {
	Text         string     `json:"text"`
	ToolCalls    []ToolCall `json:"tool_calls,omitempty"`
	Reasoning    string     `json:"reasoning,omitempty"`
	Refusal      string     `json:"refusal,omitempty"` // the model's explanation if it declined to answer
	FinishReason string     `json:"finish_reason,omitempty"`
	InputTokens  int        `json:"input_tokens,omitempty"`  // as the API stated; 0 when it did not
	OutputTokens int        `json:"output_tokens,omitempty"` // likewise
}

// ToolCall is a function call that the model requests. Arguments is the JSON object that
// the tool's schema describes. If the model wrote something else, Arguments is that JSON
// value, or the text as a JSON string.
type ToolCall struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}
