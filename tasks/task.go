package tasks

import (
	"encoding/json"
	"time"
)

// Kind is the sort of work a task asks for.
type Kind string

// The kinds. Specs has a row for each.
const (
	KindTranscription Kind = "transcription"
	KindImage         Kind = "image"
	KindTranslation   Kind = "translation"
	KindEmbedding     Kind = "embedding"
	KindText          Kind = "text"
)

// Lane decides who goes first at a gate and in a worker.
type Lane string

// Interactive tasks pass before bulk ones. The zero value means Interactive.
const (
	Interactive Lane = "interactive"
	Bulk        Lane = "bulk"
)

// Payload is a task's input. Its JSON form is what waits in Redis and what every
// surface takes, so fields are added, never renamed.
type Payload interface {
	Kind() Kind
	// Validate reports every problem at once, as Problems; nil when there is none.
	// What depends on the model is checked when the task is accepted.
	Validate() error
}

// Task is one accepted unit of work as it stands in Redis (the payload of the
// asynq task) and in its pending record.
type Task struct {
	Version   int               `json:"v"` // 1
	ID        string            `json:"id"`
	Tenant    string            `json:"tenant"`
	Kind      Kind              `json:"kind"`
	Lane      Lane              `json:"lane"`
	Model     string            `json:"model"`             // the model that will be called; never empty
	Payload   json.RawMessage   `json:"payload,omitempty"` // empty when InputKey has it
	InputKey  string            `json:"input_key,omitempty"`
	Digest    string            `json:"digest"` // SHA-256 (hex) of kind, model and canonical payload: same idempotency key, same digest
	CreatedAt time.Time         `json:"created_at"`
	StartAt   time.Time         `json:"start_at,omitzero"` // not before; zero means at once
	Deadline  time.Time         `json:"deadline"`          // never zero: the spec's maximum age when none was asked for
	Metadata  map[string]string `json:"metadata,omitempty"`
	Pending   bool              `json:"pending,omitempty"` // a pending record exists in the bucket
	// RecoveredAt is when the task was put back from its record, since Redis had lost it.
	RecoveredAt time.Time `json:"recovered_at,omitzero"`
	// Redis is the life of the Redis that took it, see package replid; empty when that is
	// not known, or when the task may have run before. Only the queue has it.
	Redis     string `json:"redis,omitempty"`
	Cancelled bool   `json:"cancelled,omitempty"` // in a record: a person wants it to end
}

// Queue is the asynq queue of a kind and lane: "embedding:bulk".
func Queue(k Kind, l Lane) string {
	if l == "" {
		l = Interactive
	}
	return string(k) + ":" + string(l)
}

// ResultKey, PendingKey and ArtefactKey name a task's objects in the bucket.
func ResultKey(tenant, id string) string  { return tenant + "/tasks/" + id + "/result.json" }
func PendingKey(tenant, id string) string { return tenant + "/pending/" + id + ".json" }

// ArtefactKey names a file beside the result: "transcript.vtt".
func ArtefactKey(tenant, id, name string) string { return tenant + "/tasks/" + id + "/" + name }

// DeadKey names the entry of a failed task in the list of failures.
func DeadKey(tenant, id string) string { return tenant + "/dead/" + id + ".json" }

// FailedTaskKey names what a failed task was, which lies beside its result so that it can
// be run again.
func FailedTaskKey(tenant, id string) string { return ArtefactKey(tenant, id, "task.json") }

// LiveKey names the small Redis record of a task: a hash with its counters
// ("attempts", "calls", "settled", "unpaid", "crashes"), its "holder" (the worker that
// is at it), "idle" (that only waits for its turn), "cancelled", and, once the task has
// ended, "ended" and "result" (the result document, when it has at most 64 KiB) for
// those who wait without a bucket at hand. It expires LiveTTL after the deadline or
// the end; the bucket, not it, is the truth.
func LiveKey(id string) string { return "neuronmill:task:{" + id + "}" }

// LiveTTL is how long a LiveKey outlives its last change once the task has ended.
const LiveTTL = time.Hour

// ParkedKey names the list of a queue's tasks that wait for the gate of a model: a
// sorted set of ids by the time of their acceptance.
func ParkedKey(queue, model string) string { return "neuronmill:parked:{" + queue + "}:" + model }

// ModelsKey names the set of models that a queue has had tasks of since it was last
// empty.
func ModelsKey(queue string) string { return "neuronmill:models:{" + queue + "}" }

// DeadlinesKey names the deadlines of a queue's tasks that have not ended: a sorted set
// of ids. CancelledKey names the ids of tasks that a person has cancelled, until they
// have ended.
func DeadlinesKey(queue string) string { return "neuronmill:deadlines:{" + queue + "}" }

const CancelledKey = "neuronmill:cancelled"
