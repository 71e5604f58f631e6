package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
)

// Tasks that one call of EnqueueMany accepts share a pending record: an object with one
// task a line. It is written before the tasks are enqueued and deleted by the reconciler
// once all of them have ended. A worker notes in Redis which have ended; where Redis does
// not know, the bucket is asked for their results. A cancelled task gets a record of its
// own, which has precedence.

const (
	sharedSize = 1 << 20 // roughly the most bytes of a shared record
	sharedRead = 8 << 20 // the most bytes that are read of one
)

// sharedWrite is a shared record that a call writes.
type sharedWrite struct {
	record    objects.SharedRecord
	members   []*candidate
	withdrawn bool
	err       error // of the withdrawal
}

// share assigns shared records to the candidates that can have one, and new ids.
func (c *Client) share(all []*candidate) []*sharedWrite {
	var writes []*sharedWrite
	var members []*candidate
	size := 0
	end := func() {
		if w, err := newSharedWrite(members); err == nil {
			writes = append(writes, w)
		}
		members, size = nil, 0
	}
	for _, n := range all {
		if n.err != nil || n.keyed || !n.task.Pending {
			continue
		}
		bytes := sizeOf(n.task)
		if size+bytes > sharedSize || len(members) == objects.MaxShared {
			end()
		}
		members, size = append(members, n), size+bytes
	}
	end()
	return writes
}

// newSharedWrite gives the members the ids of a shared record. It fails for fewer than
// two, which keep records of their own.
func newSharedWrite(members []*candidate) (*sharedWrite, error) {
	if len(members) < 2 {
		return nil, errors.New("one task shares no record")
	}
	record, err := objects.NewSharedRecord(members[0].task.ID, len(members))
	if err != nil {
		return nil, err
	}
	w := &sharedWrite{record: record, members: members}
	for i, id := range record.IDs() {
		members[i].task.ID, members[i].shared = id, w
	}
	return w, nil
}

// sizeOf returns roughly how many bytes a task takes in a record.
func sizeOf(t Task) int {
	size := 1 << 10
	if len(t.Payload) <= inRedis {
		size += len(t.Payload)
	}
	for k, v := range t.Metadata {
		size += len(k) + len(v)
	}
	size += len(t.Origin.Key) + len(t.Origin.Schedule)
	return size
}

// write writes the record of all members that have no error.
func (w *sharedWrite) write(ctx context.Context, s storage.Store) {
	var lines bytes.Buffer
	var written []*candidate
	for _, n := range w.members {
		if n.err == nil {
			n.err = addLine(&lines, n.task)
		}
		if n.err == nil {
			written = append(written, n)
		}
	}
	if len(written) == 0 {
		return
	}
	recorded, err := putRecord(ctx, s, w.record.Key(written[0].task.Tenant), lines.Bytes())
	for _, n := range written {
		n.recorded, n.err = recorded, err
	}
}

func addLine(lines *bytes.Buffer, t Task) error {
	document, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode the task: %w", err)
	}
	lines.Write(document)
	lines.WriteByte('\n')
	return nil
}

// withdraw removes all members from the record that Redis has refused. Later calls return
// the error of the first.
func (w *sharedWrite) withdraw(ctx context.Context, s storage.Store) error {
	if w.withdrawn {
		return w.err
	}
	w.withdrawn = true
	var lines bytes.Buffer
	for _, n := range w.members {
		if n.recorded && !n.refused {
			w.err = errors.Join(w.err, addLine(&lines, n.task))
		}
	}
	key := w.record.Key(w.members[0].task.Tenant)
	switch {
	case w.err != nil:
	case lines.Len() == 0:
		w.err = s.Delete(ctx, key)
	default:
		w.err = s.Put(ctx, key, &lines, "application/json")
	}
	return w.err
}

// readRecord reads the pending record of a task: its own, else its line in a shared one.
// The error wraps storage.ErrNotFound if there is neither.
func readRecord(ctx context.Context, s storage.Store, tenant, id string) ([]byte, error) {
	document, err := objects.Read(ctx, s, objects.PendingKey(tenant, id))
	record, _, ok := objects.SharedRecordOf(id)
	if !ok || !errors.Is(err, storage.ErrNotFound) {
		return document, err
	}
	lines, _, err := readShared(ctx, s, tenant, record)
	if err == nil && lines[id] == nil {
		err = fmt.Errorf("%s has no line in its record: %w", id, storage.ErrNotFound)
	}
	return lines[id], err
}

// readShared reads the lines of a shared record by task id. damaged is a line without an
// id of the record, nil if there is none.
func readShared(ctx context.Context, s storage.Store, tenant string, record objects.SharedRecord) (lines map[string][]byte, damaged []byte, err error) {
	key := record.Key(tenant)
	body, err := s.Get(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	document, err := io.ReadAll(io.LimitReader(body, sharedRead))
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", key, err)
	}
	lines = map[string][]byte{}
	for line := range bytes.Lines(document) {
		var t struct {
			ID string `json:"id"`
		}
		err := json.Unmarshal(line, &t)
		if of, _, ok := objects.SharedRecordOf(t.ID); err != nil || !ok || of != record {
			damaged = line
			continue
		}
		lines[t.ID] = bytes.TrimSuffix(line, []byte("\n"))
	}
	return lines, damaged, nil
}
