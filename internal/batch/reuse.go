package batch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// MaxAge is how old a result may be that a batch takes instead of a call. Zero means that
// it takes none.
type MaxAge time.Duration

const day = 24 * time.Hour

// UnmarshalText reads "90d", or a duration such as "12h".
func (a *MaxAge) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = 0
		return nil
	}
	var age time.Duration
	days, isDays := strings.CutSuffix(string(text), "d")
	n, err := strconv.Atoi(days)
	if isDays && err == nil && n <= 3650 {
		age = time.Duration(n) * day
	} else {
		age, err = time.ParseDuration(string(text))
	}
	if err != nil || age <= 0 || age > 3650*day {
		return fmt.Errorf("%q is not an age such as 90d or 12h", text)
	}
	*a = MaxAge(age)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (a MaxAge) MarshalText() ([]byte, error) {
	switch age := time.Duration(a); {
	case age == 0:
		return nil, nil
	case age%day == 0:
		return []byte(strconv.Itoa(int(age/day)) + "d"), nil
	default:
		return []byte(age.String()), nil
	}
}

// source is where a stored line of output is.
type source struct {
	batch                   uint32 // number of the batch and round in finder.batches, from 1; 0 means nowhere
	segment, offset, length uint32
	at                      uint32
}

// finder finds stored output for the lines of a file. It reads the file a second time, a
// block of lines ahead, and the indexes of the tenant once for each block: its memory does
// not depend on the number of lines, nor on that of the stored results.
type finder struct {
	b      *Batches
	since  time.Time
	keys   []string // of the indexes
	next   func() (*Line, error, bool)
	closes []func()

	samples map[digest]source // the contents of samples

	left    int               // lines of the block that were not asked for
	found   map[digest]source // the contents of the block, with their sources
	batches []string          // id/round
	known   map[string]uint32 // the numbers of batches
}

const (
	// sampleFor is how long a batch takes the results of samples.
	sampleFor = 7 * day
	// mostSamples bounds the samples that a batch reads: the latest ones.
	mostSamples = 100
)

// finderFor begins to look for results of a file: those of samples, unless every line is to
// be called, and those of batches that are no older than age. The caller closes the finder.
func (b *Batches) finderFor(ctx context.Context, src Source, age MaxAge) (*finder, error) {
	return b.find(ctx, src, age, true)
}

func (b *Batches) find(ctx context.Context, src Source, age MaxAge, samples bool) (*finder, error) {
	f := &finder{b: b, known: map[string]uint32{}}
	if src.CallEach {
		if age > 0 {
			return nil, ErrReuseEach
		}
		return f, nil
	}
	var err error
	if samples {
		err = f.loadSamples(ctx)
	}
	if err != nil || age == 0 {
		return f, err
	}
	f.since = time.Now().Add(-time.Duration(age))
	if f.keys, err = b.indexes(ctx, b.indexRoot(), f.since, mostIndexes); err != nil || len(f.keys) == 0 {
		return f, err
	}
	return f, f.readAhead(src)
}

// ErrReuseEach: results are to be reused, but every line is to be called.
var ErrReuseEach = errors.New("reuse and call_each exclude each other: a stored result would be that of all equal lines")

// loadSamples reads the results of samples.
func (f *finder) loadSamples(ctx context.Context) (err error) {
	f.since = time.Now().Add(-sampleFor)
	keys, err := f.b.indexes(ctx, f.b.sampleRoot(), f.since, mostSamples)
	if err != nil {
		return err
	}
	f.samples = map[digest]source{}
	for _, key := range keys {
		entries, err := objects.Read(ctx, f.b.Store, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for rest := entries; len(rest) >= indexEntry; rest = rest[indexEntry:] {
			if content := digest(rest); f.samples[content].batch == 0 {
				f.samples[content] = source{}
			}
		}
		f.take(f.samples, key, entries)
	}
	return nil
}

// readAhead opens the file for the blocks.
func (f *finder) readAhead(src Source) error {
	file, err := src.Open()
	if err != nil {
		return fmt.Errorf("open %s: %w", src.Name, err)
	}
	f.closes = append(f.closes, func() { _ = file.Close() })
	plain, err := Decompress(file)
	if err != nil {
		f.close()
		return err
	}
	next, stop := iter.Pull2(src.Format(plain))
	f.next = next
	f.closes = append(f.closes, func() { _ = plain.Close() }, stop)
	return nil
}

func (f *finder) close() {
	for len(f.closes) > 0 {
		last := len(f.closes) - 1
		f.closes[last]()
		f.closes = f.closes[:last]
	}
}

// of returns where the output of the next line is; empty for a line that needs a call.
func (f *finder) of(ctx context.Context, l *Line) (from string, err error) {
	var s source
	if len(f.keys) > 0 {
		if f.left == 0 {
			if err := f.block(ctx); err != nil {
				return "", err
			}
		}
		f.left--
		s = f.found[l.content]
	}
	if s.batch == 0 && l.Problem == nil && reusable(l.Kind, l.Input) {
		s = f.samples[l.content]
	}
	if l.Problem != nil || s.batch == 0 {
		return "", nil
	}
	return fmt.Sprintf("%s/%d/%d/%d", f.batches[s.batch-1], s.segment, s.offset, s.length), nil
}

// block reads the next lines ahead, and looks for their contents.
func (f *finder) block(ctx context.Context) error {
	f.found, f.left = map[digest]source{}, 0
	for f.left < repeatWindow {
		l, err, more := f.next()
		if !more {
			break
		}
		if err != nil {
			return err
		}
		f.left++
		l.check(f.b.Client)
		if l.Problem != nil || !reusable(l.Kind, l.Input) {
			continue
		}
		content, err := contentOf(l.Kind, l.Model, l.Payload)
		if err != nil {
			return fmt.Errorf("line %d: %w", l.Number, err)
		}
		f.found[content] = source{}
	}
	if f.left == 0 {
		return errors.New("the file has changed meanwhile")
	}
	return f.search(ctx)
}

// indexesAtOnce is how many indexes are read in parallel: 2 MB each at most.
const indexesAtOnce = 4

// search looks for the contents of the block in all indexes.
func (f *finder) search(ctx context.Context) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(indexesAtOnce)
	for _, key := range f.keys {
		g.Go(func() error {
			entries, err := objects.Read(ctx, f.b.Store, key)
			if errors.Is(err, storage.ErrNotFound) {
				return nil // removed meanwhile
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			f.take(f.found, key, entries)
			return nil
		})
	}
	return g.Wait()
}

// take takes the latest result of each content that is looked for from an index.
func (f *finder) take(found map[digest]source, key string, entries []byte) {
	origin, ok := indexOrigin(key)
	if !ok {
		return
	}
	oldest := uint32(max(f.since.Unix(), 0))
	for ; len(entries) >= indexEntry; entries = entries[indexEntry:] {
		content := digest(entries)
		before, wanted := found[content]
		numbers := entries[len(content):indexEntry]
		at := binary.LittleEndian.Uint32(numbers[12:])
		if !wanted || at < oldest || before.batch != 0 && before.at >= at {
			continue
		}
		if f.known[origin] == 0 {
			f.batches = append(f.batches, origin)
			f.known[origin] = uint32(len(f.batches))
		}
		found[content] = source{
			batch: f.known[origin], at: at, segment: binary.LittleEndian.Uint32(numbers),
			offset: binary.LittleEndian.Uint32(numbers[4:]), length: binary.LittleEndian.Uint32(numbers[8:]),
		}
	}
}

// storedPart returns the part of a shard that finder.of has named; nil for another text.
func (b *Batches) storedPart(from string) *part {
	fields := strings.Split(from, "/")
	if len(fields) != 5 || !batchID.MatchString(fields[0]) {
		return nil
	}
	var n [4]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(fields[i+1]); err != nil || n[i] < 0 {
			return nil
		}
	}
	return &part{key: b.shardKey(fields[0], n[0], n[1]), offset: n[2], length: n[3]}
}

// Plan validates every line of a file, counts and estimates. Lines whose results are stored
// and no older than age need no call. It spends nothing.
func (b *Batches) Plan(ctx context.Context, src Source, age MaxAge) (*Report, error) {
	f, err := b.finderFor(ctx, src, age)
	if err != nil {
		return nil, err
	}
	defer f.close()
	return scan(ctx, b.Client, src, f, func(*Line, int) error { return nil }, noCut)
}

// noCut is for a scan that writes no segments.
func noCut() error { return nil }

// runAlone runs the lines of a segment whose stored output is gone, each as a task of its
// own: which of them are gone may differ from one driver to the next.
func (s *openSegment) runAlone(ctx context.Context, head *shardHead, gone []sharedLine, lines [][]byte, contents []digest) (done forgettable, err error) {
	d := s.d
	ends := make([]*chunkEnd, len(gone))
	g, inner := errgroup.WithContext(ctx)
	for i, l := range gone {
		if err := d.window.Acquire(inner, embeddingUnits); err != nil {
			break // one of them failed, or ctx has ended
		}
		key := aloneKey(d.round.Number, s.n, l.position)
		reserved, err := d.reserve(inner, key, []record{l.record})
		g.Go(func() error {
			defer d.window.Release(embeddingUnits)
			if err != nil {
				return err
			}
			if ends[i], err = d.chunk(inner, key, []record{l.record}, s.untouched); err == nil {
				d.count(s.change(ends[i].counts))
				d.release(reserved)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for i, l := range gone {
		lines[l.position] = ends[i].lines[0]
		contents[l.position] = d.answers(l.record, lines[l.position])
		head.add(s.change(ends[i].counts))
		head.Costs = addCosts(head.Costs, ends[i].costs)
		done = append(done, ends[i].requests...)
	}
	head.Alone = len(gone)
	return done, nil
}

// aloneKey is the key of the task of a line that runs alone.
func aloneKey(round, segment, position int) string {
	return fmt.Sprintf("%d/%d/x%d", round, segment, position)
}

// pictureStored reports whether the picture of a line of output is still in the bucket.
func (d *driver) pictureStored(ctx context.Context, l sharedLine, line []byte) (stored bool, err error) {
	if l.Kind != tasks.KindImage {
		return true, nil
	}
	var output struct {
		Output struct {
			Image string `json:"image"`
		} `json:"output"`
	}
	if json.Unmarshal(line, &output) != nil {
		return false, nil
	}
	err = d.patiently(ctx, "the bucket", func(ctx context.Context) error {
		_, err := d.Store.Head(ctx, output.Output.Image)
		stored = err == nil
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalidKey) {
			return nil
		}
		return err
	})
	return stored, err
}
