package tasks

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/objects"
)

// Kind is the type of work of a task.
type Kind string

// The kinds. Specs has a row for each.
const (
	KindTranscription Kind = "transcription"
	KindImage         Kind = "image"
	KindTranslation   Kind = "translation"
	KindEmbedding     Kind = "embedding"
	KindText          Kind = "text"
)

// Lane is the priority class of a task, at the gate and in a worker.
type Lane string

// Interactive tasks run before bulk ones. The zero value means Interactive.
const (
	Interactive Lane = "interactive"
	Bulk        Lane = "bulk"
)

// Payload is the input of a task. Its JSON form is stored in Redis and read by every
// interface, so fields may be added but never renamed.
type Payload interface {
	Kind() Kind
	// Validate reports all problems as a ValidationError, or nil. Checks that depend on the model
	// run when the task is accepted.
	Validate() error
}

// Task is one accepted unit of work, as stored in Redis (the payload of the asynq task)
// and in its pending record.
type Task struct {
	Version   int               `json:"v"` // 1
	ID        string            `json:"id"`
	Tenant    string            `json:"tenant"`
	Kind      Kind              `json:"kind"`
	Lane      Lane              `json:"lane"`
	Model     string            `json:"model"`             // the model to call; never empty
	Payload   json.RawMessage   `json:"payload,omitempty"` // empty if the payload is stored under InputKey
	InputKey  string            `json:"input_key,omitempty"`
	Digest    string            `json:"digest"` // SHA-256 (hex) of kind, model and canonical payload: same idempotency key, same digest
	CreatedAt time.Time         `json:"created_at"`
	StartAt   time.Time         `json:"start_at,omitzero"` // earliest start; zero means at once
	Deadline  time.Time         `json:"deadline"`          // never zero; the default is the spec's maximum age
	Metadata  map[string]string `json:"metadata,omitempty"`
	Webhook   string            `json:"webhook,omitempty"` // URL that is told of the end
	// MaxNeurons bounds the cost of the task over all its calls; 0 means no bound.
	MaxNeurons float64 `json:"max_neurons,omitzero"`
	Spend      Spend   `json:"spend,omitempty"` // what may pay for the task
	Origin     Origin  `json:"origin,omitzero"`
	// Trace is the trace context of the producer, a traceparent
	// (https://www.w3.org/TR/trace-context/); empty without tracing.
	Trace   string `json:"trace,omitempty"`
	Pending bool   `json:"pending,omitempty"` // the bucket has a pending record
	// ResultIn is where the producer looks for the result: InStore if its client has a
	// Store, otherwise InRedis. Producers of earlier versions left it empty.
	ResultIn Durability `json:"result_in,omitempty"`
	// RecoveredAt is when the task was put back from its pending record after Redis lost
	// it.
	RecoveredAt time.Time `json:"recovered_at,omitzero"`
	// Redis names the memory of the Redis that accepted the task, see package replid. It
	// is empty if that is unknown or if the task may have run before. Only the queued
	// form has it.
	Redis     string `json:"redis,omitempty"`
	Cancelled bool   `json:"cancelled,omitempty"` // in a pending record: a person cancelled the task
	Ended     bool   `json:"ended,omitempty"`     // in the queue: this is a Tombstone
}

// Queue returns the asynq queue of a kind and lane: "embedding:bulk".
func Queue(k Kind, l Lane) string {
	if l == "" {
		l = Interactive
	}
	return string(k) + ":" + string(l)
}

// inputKey returns the object key of a payload that is too large for Redis.
func inputKey(t Task) string {
	return objects.ArtefactKey(t.Tenant, t.ID, "input."+t.Digest[:32]+".json")
}

// ownsInput reports whether the task's large payload has an object key of its own.
func (t Task) ownsInput() bool {
	name, ok := strings.CutPrefix(t.InputKey, objects.ArtefactKey(t.Tenant, t.ID, "input."))
	return ok && !strings.Contains(name, "/")
}

// PublishIn returns where a worker publishes the result in addition to the bucket:
// InRedis for a producer without a Store, InStore for all others, which read the bucket.
// Empty means a producer of an earlier version, with or without a Store. That version
// reads the result from the live record, so it goes there.
func (t Task) PublishIn() Durability {
	if t.Pending {
		return InStore
	}
	return t.ResultIn
}
