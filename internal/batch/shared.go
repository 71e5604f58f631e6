package batch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// sharedLine is a line of an open segment that gets the output of another line.
type sharedLine struct {
	record
	position int // in the segment
}

// open notes that the segment has no shard yet.
func (s *openSegment) open() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.opened[s.n] = make(chan struct{})
}

// close wakes the segments that wait for the shard of this one.
func (s *openSegment) close() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	close(s.d.opened[s.n])
	delete(s.d.opened, s.n)
}

// waitForFirsts returns once the shards of the lines that this segment repeats are stored.
// Those segments are earlier ones, so they are open or have their shards.
func (s *openSegment) waitForFirsts(ctx context.Context) error {
	for _, l := range s.shared {
		if l.First == nil || l.First.Segment == s.n {
			continue
		}
		s.d.mu.Lock()
		stored := s.d.opened[l.First.Segment]
		s.d.mu.Unlock()
		if stored == nil {
			continue
		}
		select {
		case <-stored:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// fill completes the lines of the segment that get the output of others. A line whose
// stored output is gone runs alone; done are the tasks of those.
func (s *openSegment) fill(ctx context.Context, head *shardHead, lines [][]byte, contents []digest) (done forgettable, err error) {
	first, err := s.firsts(ctx, lines)
	if err != nil {
		return nil, err
	}
	var counts Counts
	var gone []sharedLine
	for i, l := range s.shared {
		line, completed, err := copyLine(l.ID, first[i])
		if err == nil && completed && l.From != "" {
			completed, err = s.d.pictureStored(ctx, l, line)
		}
		switch {
		case l.From != "" && s.d.halted():
			line, completed = failedLine(l.ID, s.d.notRun()), false
		case l.From != "" && (errors.Is(err, errNoLine) || err == nil && !completed):
			gone = append(gone, l)
			continue
		case err != nil:
			return nil, fmt.Errorf("the output of line %d: %w", l.Number, err)
		}
		lines[l.position] = line
		if completed {
			counts.Completed++
			counts.Cached++
		} else {
			counts.Failed++
		}
	}
	s.d.count(s.change(counts))
	head.add(s.change(counts))
	return s.runAlone(ctx, head, gone, lines, contents)
}

// firsts returns the output of the lines that the shared ones repeat, in their order; nil
// for stored output that is gone.
func (s *openSegment) firsts(ctx context.Context, lines [][]byte) ([][]byte, error) {
	first := make([][]byte, len(s.shared))
	var parts []*part
	for i, l := range s.shared {
		var p *part
		var err error
		switch {
		case l.From != "":
			p = s.d.storedPart(l.From)
		case l.First.Segment == s.n:
			first[i] = lines[l.First.Position]
		default:
			p, err = s.partOf(ctx, *l.First)
		}
		if err != nil {
			return nil, err
		}
		if p != nil {
			p.took = func(body []byte) { first[i] = body }
			parts = append(parts, p)
		}
	}
	return first, s.d.readParts(ctx, parts)
}

// partOf returns the part of a shard that is a line of another segment of this batch.
func (s *openSegment) partOf(ctx context.Context, at place) (*part, error) {
	d := s.d
	round := d.latestRound(at.Segment)
	if round < 0 {
		return nil, fmt.Errorf("segment %d of batch %s has no shard yet", at.Segment, d.batch.ID)
	}
	var shape layout
	err := d.patiently(ctx, "the bucket", func(ctx context.Context) (err error) {
		shape, err = d.layoutOf(ctx, round, at.Segment)
		return err
	})
	if err != nil {
		return nil, err
	}
	if at.Position >= shape.lines.lines() {
		return nil, fmt.Errorf("segment %d of batch %s has no line %d", at.Segment, d.batch.ID, at.Position)
	}
	_, length := shape.lines.line(at.Position)
	return &part{key: d.shardKey(d.batch.ID, round, at.Segment), offset: shape.head + shape.lines.offset(at.Position), length: length}, nil
}

// part is a part of an object that is to be read.
type part struct {
	key            string
	offset, length int
	took           func(body []byte) // is called from one goroutine at a time; not for a part that is missing
}

const (
	// mostGap is the most bytes between two parts that are read with them in one request.
	mostGap = 64 << 10
	// mostRange bounds a request, unless one part is longer.
	mostRange = 4 << 20
	// rangesAtOnce is how many requests read parts in parallel.
	rangesAtOnce = 4
)

// readParts reads parts of objects. Those that are close to each other share a request.
func (d *driver) readParts(ctx context.Context, parts []*part) error {
	slices.SortStableFunc(parts, func(a, b *part) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.offset, b.offset)) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(rangesAtOnce)
	for len(parts) > 0 {
		n, end := 1, parts[0].offset+parts[0].length
		for n < len(parts) && parts[n].key == parts[0].key && parts[n].offset <= end+mostGap && parts[n].offset+parts[n].length <= parts[0].offset+mostRange {
			end = max(end, parts[n].offset+parts[n].length)
			n++
		}
		some := parts[:n]
		parts = parts[n:]
		g.Go(func() error { return d.readRange(ctx, some, end) })
	}
	return g.Wait()
}

// readRange reads parts of one object with one request.
func (d *driver) readRange(ctx context.Context, parts []*part, end int) error {
	from := parts[0].offset
	var body []byte
	err := d.patiently(ctx, "the bucket", func(ctx context.Context) (err error) {
		body, err = storage.GetRange(ctx, d.Store, parts[0].key, int64(from), int64(end-from))
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range parts {
		if p.offset-from+p.length <= len(body) {
			p.took(body[p.offset-from:][:p.length])
		}
	}
	return nil
}

var (
	outputBegins = []byte(`","status":"completed","output":`)
	usageBegins  = []byte(`,"usage":{`)
)

// cachedUsage is the usage of a line whose result another line has paid for.
const cachedUsage = `{"neurons":0,"calls":0,"cached":true}`

var errNoLine = errors.New("its output is missing or damaged")

// copyLine makes the line of output of one line from that of another one. The output of a
// completed line is copied as text, at no cost; a failed line has the same error.
func copyLine(id string, from []byte) (line []byte, completed bool, err error) {
	if len(from) == 0 {
		return nil, false, errNoLine
	}
	if isFailed(from) {
		var f struct {
			Error *tasks.TaskError `json:"error"`
		}
		if err := json.Unmarshal(from, &f); err != nil || f.Error == nil {
			return nil, false, errNoLine
		}
		return failedLine(id, f.Error), false, nil
	}
	// A quote cannot be in an id, and the usage is the last field and has no object in it.
	begin, end := bytes.Index(from, outputBegins), bytes.LastIndex(from, usageBegins)
	if begin < 0 || end < begin+len(outputBegins) {
		return nil, false, errNoLine
	}
	return completedLine(id, from[begin+len(outputBegins):end], []byte(cachedUsage)), true, nil
}
