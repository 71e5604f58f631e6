package objects

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// SharedRecord is a pending record of several tasks that were accepted together. Their
// ids follow from each other: 15 hexadecimal digits of time that count up by one a task
// around the digit 8, 10 digits that the record's tasks share, then their number and the
// task's index, 3 digits each. So the key follows from any id, and all ids from the key.
type SharedRecord struct {
	time   uint64 // of the first id, in steps of about 250 ns
	shared string // the digits that the ids share
	count  int    // tasks at the beginning; a rewritten record holds fewer
}

// MaxShared is the highest number of tasks of a shared record.
const MaxShared = 0xfff

// sharedID matches ids of tasks with a shared record. Other random ids have the digit 7,
// of version 7 of UUIDs, in place of the 8.
var sharedID = regexp.MustCompile(`^t_[0-9a-f]{12}8[0-9a-f]{19}$`)

// NewSharedRecord returns the record of count tasks, at most MaxShared. It takes time and
// randomness from a random id.
func NewSharedRecord(random string, count int) (SharedRecord, error) {
	digits, ok := strings.CutPrefix(random, "t_")
	if !ok || len(digits) != 32 || count < 1 || count > MaxShared {
		return SharedRecord{}, fmt.Errorf("a record of %d tasks cannot begin with the id %.40q", count, random)
	}
	time, err := strconv.ParseUint(digits[:12]+digits[13:16], 16, 64)
	if err != nil {
		return SharedRecord{}, fmt.Errorf("time of an id: %w", err)
	}
	return SharedRecord{time, digits[22:], count}, nil
}

// SharedRecordOf returns the shared record that a task's id belongs to, and the task's
// index in it. It returns false for the id of a task that has a record of its own.
func SharedRecordOf(id string) (r SharedRecord, index int, ok bool) {
	if !sharedID.MatchString(id) {
		return SharedRecord{}, 0, false
	}
	digits := id[2:]
	time, _ := strconv.ParseUint(digits[:12]+digits[13:16], 16, 64) // sharedID has checked the digits
	count, _ := strconv.ParseUint(digits[26:29], 16, 64)
	place, _ := strconv.ParseUint(digits[29:], 16, 64)
	if place >= count || place > time {
		return SharedRecord{}, 0, false
	}
	return SharedRecord{time - place, digits[16:26], int(count)}, int(place), true
}

// IDs returns the ids of all tasks that the record has held, in order.
func (r SharedRecord) IDs() []string {
	ids := make([]string, r.count)
	for i := range ids {
		ids[i] = r.id(i)
	}
	return ids
}

// First returns the first id, which names the record.
func (r SharedRecord) First() string { return r.id(0) }

func (r SharedRecord) id(i int) string {
	time := fmt.Sprintf("%015x", r.time+uint64(i))
	return fmt.Sprintf("t_%s8%s%s%03x%03x", time[:12], time[12:], r.shared, r.count, i)
}

// Key returns the object key of the record, which has the first id in it.
func (r SharedRecord) Key(tenant string) string { return SharedPrefix(tenant) + r.id(0) + ".json" }

// SharedPrefix begins the keys of a tenant's shared records. Earlier versions take them for
// records of ended tasks and leave them alone.
func SharedPrefix(tenant string) string { return PendingPrefix(tenant) + "many/" }

// ParseSharedKey returns the record of a key that a listing of PendingPrefix has found.
func ParseSharedKey(tenant, key string) (SharedRecord, bool) {
	id, ok := strings.CutPrefix(key, SharedPrefix(tenant))
	id, end := strings.CutSuffix(id, ".json")
	if !ok || !end {
		return SharedRecord{}, false
	}
	r, index, ok := SharedRecordOf(id)
	return r, ok && index == 0
}

// SharedBefore returns a key that sorts before the shared records of all tasks whose ids
// begin with start.
func SharedBefore(tenant, start string) string {
	digits := strings.TrimPrefix(start, "t_")
	digits = (digits + strings.Repeat("0", 12))[:12]
	ms, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return SharedPrefix(tenant)
	}
	// The times of a record's ids are less than MaxShared steps apart, a millisecond.
	return SharedPrefix(tenant) + fmt.Sprintf("t_%012x", max(ms, 1)-1)
}
