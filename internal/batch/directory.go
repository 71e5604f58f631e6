package batch

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
)

// directory says where the lines of a shard are, and what they answer: for each line its
// length and the digest of its content. The digest is zero for a line whose result is of no
// use to others: a failed or a cached one, or one of an earlier round. It is in the first
// line of the shard, so that both are written in one step.
type directory []byte

const directoryEntry = len(digest{}) + 4

func (d directory) add(content digest, length int) directory {
	return binary.LittleEndian.AppendUint32(append(d, content[:]...), uint32(length))
}

// lines returns how many lines there are.
func (d directory) lines() int { return len(d) / directoryEntry }

// line returns the digest of a line and its length, without its end.
func (d directory) line(n int) (content digest, length int) {
	entry := d[n*directoryEntry:]
	return digest(entry), int(binary.LittleEndian.Uint32(entry[len(content):]))
}

// offset returns where a line begins, counted from the first line of output.
func (d directory) offset(n int) (offset int) {
	for i := range n {
		_, length := d.line(i)
		offset += length + 1
	}
	return offset
}

// answers returns the digest of the line of a record that has just completed, if others may
// use its result.
func (d *driver) answers(r record, line []byte) (content digest) {
	if r.Content == (digest{}) || !reusable(r.Kind, r.Input) || isFailed(line) {
		return content
	}
	if d.round.own() {
		return r.Content
	}
	payload, err := tasks.Parse(r.Kind, r.Input)
	if err != nil {
		return content
	}
	if content, err = contentOf(r.Kind, d.modelOf(r), payload); err != nil {
		return digest{}
	}
	return content
}

// layout is a shard's directory, and where its lines begin.
type layout struct {
	head  int // bytes of the first line, with its end
	lines directory
	at    time.Time // when it was written
}

// mostLayouts bounds the layouts in memory: about 20 KB each.
const mostLayouts = 1000

// layoutOf returns the layout of the shard of a segment of this batch.
func (d *driver) layoutOf(ctx context.Context, round, segment int) (layout, error) {
	ref := place{segment, round}
	d.mu.Lock()
	known, ok := d.layouts[ref]
	d.mu.Unlock()
	if ok {
		return known, nil
	}
	h, size, err := d.shardHead(ctx, d.batch.ID, round, segment)
	if err != nil {
		return known, err
	}
	known = layout{head: size, lines: h.Lines, at: h.At}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.layouts) >= mostLayouts || d.layouts == nil {
		d.layouts = map[place]layout{}
	}
	d.layouts[ref] = known
	return known, nil
}

// shardHead reads the first line of a shard, and returns its length with its end too.
func (b *Batches) shardHead(ctx context.Context, id string, round, n int) (h shardHead, size int, err error) {
	key := b.shardKey(id, round, n)
	start, err := storage.GetRange(ctx, b.Store, key, 0, mostHead)
	if err != nil {
		return h, 0, fmt.Errorf("get %s: %w", key, err)
	}
	for size < len(start) && start[size] != '\n' {
		size++
	}
	if size == len(start) {
		return h, 0, fmt.Errorf("read %s: its first line has no end", key)
	}
	if err := json.Unmarshal(start[:size], &h); err != nil {
		return h, 0, fmt.Errorf("decode %s: %w", key, err)
	}
	return h, size + 1, nil
}
