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

// close tells the segments that wait for this one that its shard is stored.
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
		if l.First.Segment == s.n {
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

// fill completes the lines of the segment that get the output of others.
func (s *openSegment) fill(ctx context.Context, lines [][]byte) (Counts, error) {
	var counts Counts
	first, err := s.firsts(ctx, lines)
	if err != nil {
		return counts, err
	}
	for i, l := range s.shared {
		line, completed, err := copyLine(l.ID, first[i])
		if err != nil {
			return counts, fmt.Errorf("line %d repeats line %d of segment %d: %w", l.Number, l.First.Position, l.First.Segment, err)
		}
		lines[l.position] = line
		if completed {
			counts.Completed++
			counts.Cached++
		} else {
			counts.Failed++
		}
	}
	return counts, nil
}

// firsts returns the output of the lines that the shared ones repeat, in their order.
func (s *openSegment) firsts(ctx context.Context, lines [][]byte) ([][]byte, error) {
	first := make([][]byte, len(s.shared))
	var parts []*part
	for i, l := range s.shared {
		if l.First.Segment == s.n {
			first[i] = lines[l.First.Position]
			continue
		}
		var shape layout
		round := s.d.latestRound(l.First.Segment)
		if round < 0 {
			return nil, fmt.Errorf("segment %d of batch %s has no shard yet", l.First.Segment, s.d.batch.ID)
		}
		err := s.d.patiently(ctx, "the bucket", func(ctx context.Context) (err error) {
			shape, err = s.d.layoutOf(ctx, round, l.First.Segment)
			return err
		})
		if err != nil {
			return nil, err
		}
		if l.First.Position >= shape.lines.lines() {
			return nil, fmt.Errorf("segment %d of batch %s has no line %d", l.First.Segment, s.d.batch.ID, l.First.Position)
		}
		_, length := shape.lines.line(l.First.Position)
		parts = append(parts, &part{
			key: s.d.shardKey(s.d.batch.ID, round, l.First.Segment), offset: shape.head + shape.lines.offset(l.First.Position), length: length,
			took: func(body []byte) { first[i] = body },
		})
	}
	return first, s.d.readParts(ctx, parts)
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
