package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/mergepatch"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// shardHead is the first line of a shard. The counts are those of all its lines over all
// rounds, the costs those of this round.
type shardHead struct {
	Shard int `json:"shard"`
	Round int `json:"round"`
	Counts
	Costs []Cost    `json:"costs,omitempty"`
	At    time.Time `json:"at,omitzero"`     // when it was written
	Lines directory `json:"lines,omitempty"` // earlier versions have none
	Alone int       `json:"alone,omitempty"` // lines that ran alone, since their stored output was gone
}

// mostHead is the most bytes of the first line of a shard.
const mostHead = 64 << 10

// openSegment is a segment whose chunks run.
type openSegment struct {
	d         *driver
	n         int
	untouched bool // no earlier driver can have had tasks of it

	records int // lines in it
	chunks  []*chunkRun
	shared  []sharedLine
	running sync.WaitGroup
}

// chunkRun is a chunk of an open segment.
type chunkRun struct {
	key       string
	records   []record
	positions []int // of the records in the segment
	units     int64 // of the window
	end       *chunkEnd
	counts    Counts // also when the lines were dropped
}

// start enqueues the chunks of the segment as the window has room, and writes its shard in
// the background once they have ended.
func (s *openSegment) start(ctx context.Context, g *errgroup.Group) error {
	d := s.d
	if err := s.load(ctx); err != nil {
		return err
	}
	if len(s.chunks)+len(s.shared) == 0 { // no line of it failed in the round before
		d.open.Release(1)
		return d.passed(ctx, s.n)
	}
	s.open()
	for _, c := range s.chunks {
		if err := d.window.Acquire(ctx, c.units); err != nil {
			return context.Cause(ctx)
		}
		reserved, err := d.reserve(ctx, c.key, c.records)
		if err != nil {
			return err
		}
		s.running.Add(1)
		g.Go(func() error {
			defer s.running.Done()
			defer d.window.Release(c.units)
			return s.run(ctx, c, reserved)
		})
	}
	g.Go(func() error {
		defer d.open.Release(1)
		s.running.Wait()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return s.finish(ctx)
	})
	return nil
}

// load reads the segment and forms its chunks. In a later round these hold the lines that
// failed before.
func (s *openSegment) load(ctx context.Context) error {
	d := s.d
	redo := func(int) bool { return true }
	if r := d.latestRound(s.n); r >= 0 {
		var lines [][]byte
		err := d.patiently(ctx, "the bucket", func(ctx context.Context) (err error) {
			_, lines, err = d.shard(ctx, d.batch.ID, r, s.n)
			return err
		})
		if err != nil {
			return err
		}
		redo = func(i int) bool { return i < len(lines) && isFailed(lines[i]) }
	}
	var records []record
	err := d.patiently(ctx, "the bucket", func(ctx context.Context) (err error) {
		records, err = d.records(ctx, s.n)
		return err
	})
	if err != nil {
		return err
	}
	takesPart := func(i int) bool { return redo(i) && (records[i].Error == nil || d.round.Number == 0) }
	s.records = len(records)
	s.chunks = d.chunksOf(s.n, records, takesPart)
	for i, r := range records {
		if d.shares(r) && takesPart(i) {
			s.shared = append(s.shared, sharedLine{r, i})
		}
	}
	return nil
}

// records reads the lines of a segment as this round runs them.
func (d *driver) records(ctx context.Context, n int) ([]record, error) {
	records, err := d.segment(ctx, d.batch, n)
	if err != nil || d.round.Patch == nil {
		return records, err
	}
	for i, r := range records {
		if r.Error == nil && r.First == nil {
			if records[i].Input, err = mergepatch.Apply(r.Input, d.round.Patch); err != nil {
				return nil, fmt.Errorf("patch line %d: %w", r.Number, err)
			}
		}
	}
	return records, nil
}

// shares reports whether a line gets the output of another one. With another model or input
// than its own, a line gets no stored output.
func (d *driver) shares(r record) bool {
	return r.First != nil || r.From != "" && d.round.own()
}

// chunksOf forms the chunks of a segment from the records that take part in the round, and
// need a call.
func (d *driver) chunksOf(segment int, records []record, takesPart func(i int) bool) (chunks []*chunkRun) {
	round := d.round.Number
	byNumber := map[int]*chunkRun{}
	for i, r := range records {
		if d.shares(r) || !takesPart(i) {
			continue
		}
		if r.Chunk == noChunk {
			chunks = append(chunks, &chunkRun{key: aloneKey(round, segment, i), units: embeddingUnits, records: []record{r}, positions: []int{i}})
			continue
		}
		c := byNumber[r.Chunk]
		if c == nil {
			c = &chunkRun{key: fmt.Sprintf("%d/%d/%d", round, segment, r.Chunk), units: 1}
			if r.Kind == tasks.KindEmbedding {
				c.units = embeddingUnits
			}
			byNumber[r.Chunk] = c
			chunks = append(chunks, c)
		}
		c.records, c.positions = append(c.records, r), append(c.positions, i)
	}
	return chunks
}

// run runs a chunk for which neurons were reserved. Its lines are dropped if too many are in
// memory.
func (s *openSegment) run(ctx context.Context, c *chunkRun, reserved float64) error {
	d := s.d
	end, err := d.chunk(ctx, c.key, c.records, s.untouched)
	if err != nil {
		return err
	}
	c.counts = end.counts
	d.count(s.change(end.counts))
	d.release(reserved)
	size := end.size()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held+size <= heldLimit {
		d.held += size
		c.end = end
	}
	return nil
}

// change returns by how much the counts of a chunk change those of the batch: lines of a
// later round were counted as failed.
func (s *openSegment) change(c Counts) Counts {
	if s.d.round.Number > 0 {
		c.Failed = -c.Completed
	}
	return c
}

// finish writes the shard.
func (s *openSegment) finish(ctx context.Context) error {
	d := s.d
	if err := s.waitForFirsts(ctx); err != nil {
		return err
	}
	if err := d.shards.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer d.shards.Release(1)
	head, lines, err := s.before(ctx)
	if err != nil {
		return err
	}
	contents := make([]digest, len(lines))
	done, held, err := s.gather(ctx, &head, lines, contents)
	if err != nil {
		return err
	}
	alone, err := s.fill(ctx, &head, lines, contents)
	if err != nil {
		return err
	}
	done = append(done, alone...)
	head.At = time.Now().UTC().Truncate(time.Second)
	for i, l := range lines {
		head.Lines = head.Lines.add(contents[i], len(l))
	}
	err = d.storeShard(ctx, head, lines)
	d.mu.Lock()
	d.held -= held
	if err == nil {
		d.latest[s.n] = shardRef{round: d.round.Number}
	}
	d.mu.Unlock()
	s.chunks, s.shared = nil, nil
	if err != nil {
		return err
	}
	s.close()
	d.forgetLater(ctx, done)
	return d.passed(ctx, s.n)
}

// before returns the beginning of the shard, and the lines of the round before.
func (s *openSegment) before(ctx context.Context) (head shardHead, lines [][]byte, err error) {
	d := s.d
	head = shardHead{Shard: s.n, Round: d.round.Number}
	r := d.latestRound(s.n)
	if r < 0 {
		return head, make([][]byte, s.records), nil
	}
	err = d.patiently(ctx, "the bucket", func(ctx context.Context) (err error) {
		var before shardHead
		before, lines, err = d.shard(ctx, d.batch.ID, r, s.n)
		head.Counts = before.Counts
		return err
	})
	return head, lines, err
}

// gather puts the lines of the chunks into their places. It runs a chunk again whose lines
// were dropped: its tasks have their results. held is how many bytes were kept in memory.
func (s *openSegment) gather(ctx context.Context, head *shardHead, lines [][]byte, contents []digest) (done forgettable, held int, err error) {
	d := s.d
	for _, c := range s.chunks {
		if c.end == nil {
			again, err := d.chunk(ctx, c.key, c.records, false)
			if err != nil {
				return nil, held, err
			}
			d.count(s.change(again.counts.minus(c.counts)))
			c.end = again
		} else {
			held += c.end.size()
		}
		for i, at := range c.positions {
			lines[at] = c.end.lines[i]
			contents[at] = d.answers(c.records[i], lines[at])
		}
		head.add(s.change(c.end.counts))
		head.Costs = addCosts(head.Costs, c.end.costs)
		done = append(done, c.end.requests...)
	}
	return done, held, nil
}

// storeShard writes a shard. If another driver has written it, that one stands.
func (d *driver) storeShard(ctx context.Context, head shardHead, lines [][]byte) error {
	size := 256 + 160*len(head.Costs) + 2*len(head.Lines)
	for _, l := range lines {
		size += len(l) + 1
	}
	text, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("encode a shard: %w", err)
	}
	body := append(append(make([]byte, 0, size), text...), '\n')
	for i, l := range lines {
		body = append(append(body, l...), '\n')
		lines[i] = nil
	}
	key := d.shardKey(d.batch.ID, head.Round, head.Shard)
	return d.patiently(ctx, "the bucket", func(ctx context.Context) error {
		err := d.Store.Create(ctx, key, bytes.NewReader(body), "application/jsonl")
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return fmt.Errorf("create %s: %w", key, err)
		}
		return nil
	})
}

// isFailed reports whether a line of output is a failed one. It reads the beginning only.
func isFailed(line []byte) bool {
	d := jsontext.NewDecoder(bytes.NewReader(line[:min(len(line), 8<<10)]))
	for range 4 { // {, "id", its value, "status"
		if _, err := d.ReadToken(); err != nil {
			return false
		}
	}
	status, err := d.ReadToken()
	return err == nil && status.String() == "failed"
}

// shardRef is the latest shard of a segment.
type shardRef struct {
	round   int
	written time.Time // by the clock of the bucket
}

// latestShards returns the latest shard of each segment that has one.
func (b *Batches) latestShards(ctx context.Context, id string) (map[int]shardRef, error) {
	latest := map[int]shardRef{}
	prefix := b.key(id, "shards/")
	for info, err := range b.Store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list the shards: %w", err)
		}
		round, name, _ := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
		r, err := strconv.Atoi(round)
		n, err2 := strconv.Atoi(strings.TrimSuffix(name, ".jsonl"))
		if err != nil || err2 != nil {
			continue
		}
		if before, ok := latest[n]; !ok || r > before.round {
			latest[n] = shardRef{r, info.Modified}
		}
	}
	return latest, nil
}

// shard reads a shard: its first line and those of the output.
func (b *Batches) shard(ctx context.Context, id string, round, n int) (h shardHead, lines [][]byte, err error) {
	key := b.shardKey(id, round, n)
	body, err := objects.Read(ctx, b.Store, key)
	if err != nil {
		return h, nil, err
	}
	first, rest, _ := bytes.Cut(body, []byte("\n"))
	if err := json.Unmarshal(first, &h); err != nil {
		return h, nil, fmt.Errorf("decode %s: %w", key, err)
	}
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		lines = append(lines, line)
	}
	return h, lines, nil
}
