package queue

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	neverArchive = 1 << 20   // asynq's retry limit; our own counters decide
	leaseOnly    = 24 * 3600 // seconds; we apply our own time limits, and the lease shows a dead worker
)

// Field numbers of asynq's TaskMessage (internal/proto/asynq.proto of v0.26).
const (
	fieldType    protowire.Number = 1
	fieldPayload protowire.Number = 2
	fieldID      protowire.Number = 3
	fieldQueue   protowire.Number = 4
	fieldRetry   protowire.Number = 5
	fieldError   protowire.Number = 7
	fieldTimeout protowire.Number = 8
	fieldHeaders protowire.Number = 15
)

// EncodeMessage encodes a task as asynq's TaskMessage.
func EncodeMessage(queue, id, kind string, payload []byte) []byte {
	var b []byte
	text := func(field protowire.Number, v string) {
		b = protowire.AppendTag(b, field, protowire.BytesType)
		b = protowire.AppendString(b, v)
	}
	number := func(field protowire.Number, v uint64) {
		b = protowire.AppendTag(b, field, protowire.VarintType)
		b = protowire.AppendVarint(b, v)
	}
	text(fieldType, kind)
	text(fieldPayload, string(payload))
	text(fieldID, id)
	text(fieldQueue, queue)
	number(fieldRetry, neverArchive)
	number(fieldTimeout, leaseOnly)
	return b
}

// errDamaged means that a message is not a TaskMessage that asynq would read.
var errDamaged = errors.New("decode the queued message: it is damaged")

// Payload returns the payload of an encoded message. It fails for a message that asynq
// would refuse to read.
func Payload(message []byte) ([]byte, error) {
	var payload []byte
	whole := eachField(message, func(field protowire.Number, value []byte) bool {
		if field == fieldPayload {
			payload = value
			return true
		}
		return utf8.Valid(value) || field >= fieldHeaders
	})
	if !whole || payload == nil {
		return nil, errDamaged
	}
	return payload, nil
}

// lastError returns the error of the last run in an encoded message; empty when there is
// none.
func lastError(message []byte) string {
	text := ""
	eachField(message, func(field protowire.Number, value []byte) bool {
		if field == fieldError {
			text = string(value)
		}
		return true
	})
	return text
}

// messageID returns the id in an encoded message; empty when the message is damaged.
func messageID(message []byte) string {
	id := ""
	eachField(message, func(field protowire.Number, value []byte) bool {
		if field == fieldID {
			id = string(value)
		}
		return true
	})
	return id
}

// eachField calls see with the fields that hold bytes. It returns false when see did, or
// when the message is damaged.
func eachField(message []byte, see func(protowire.Number, []byte) bool) bool {
	for rest := message; len(rest) > 0; {
		field, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return false
		}
		size := protowire.ConsumeFieldValue(field, kind, rest[n:])
		if size < 0 {
			return false
		}
		if kind == protowire.BytesType {
			if value, _ := protowire.ConsumeBytes(rest[n:]); !see(field, value) {
				return false
			}
		}
		rest = rest[n+size:]
	}
	return true
}
