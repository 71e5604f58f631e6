// Package taskstate is what Redis has of a task beside the queue: its live record, its
// published result and its cancellation.
package taskstate

import "time"

// LiveKey returns the Redis key of a task's live record, a hash with these fields:
//
//	"attempts", "calls", "settled", "unpaid",
//	"crashes", "unusable"   counters
//	"neurons"               cost of calls whose answers are not stored, by call number
//	"failure"               decided, but not stored yet
//	"holder"                the owner: the worker that runs the task
//	"memory"                name of Redis' memory in which it claimed the task
//	"idle"                  the owner only waits and makes no call
//	"cancelled"             a person cancelled the task
//	"digest"                the claim of the idempotency key
//	"ended"                 status of an ended task
//	"result"                the result document, for producers of earlier versions without a Store
//
// The record expires LiveTTL after the deadline or the end. The bucket has precedence
// over it.
func LiveKey(id string) string { return "neuronmill:task:{" + id + "}" }

// LiveTTL is how long a live record outlives its last change once the task has ended.
const LiveTTL = time.Hour

// PublishedKey returns the Redis key of an ended task's result document, for producers
// without a Store. The key exists for PublishedFor after the end if the document has at
// most PublishedLimit bytes.
func PublishedKey(id string) string { return "neuronmill:result:{" + id + "}" }

// PublishedFor and PublishedLimit bound the lifetime and size (bytes) of a published
// result.
const (
	PublishedFor   = 10 * time.Minute
	PublishedLimit = 64 << 10
)

// CancelledKey is the Redis key of the ids of cancelled tasks that have not ended: a
// sorted set by the time of the cancellation.
const CancelledKey = "neuronmill:cancelled"
