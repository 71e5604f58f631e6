package batch

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/tasks"
)

// WriteOutput writes the output lines of a batch in the order of the input: all of them,
// or those of the segments that are complete so far, up to the first that is not. It
// returns the counts of the lines written.
func (b *Batches) WriteOutput(ctx context.Context, id string, w io.Writer) (Counts, error) {
	_, written, err := b.WriteOutputFrom(ctx, id, 0, w)
	return written, err
}

// WriteOutputFrom is WriteOutput from a segment on, for those who follow a batch: next is the
// segment with which the next call goes on.
func (b *Batches) WriteOutputFrom(ctx context.Context, id string, segment int, w io.Writer) (next int, written Counts, err error) {
	d, err := b.Get(ctx, id)
	if err != nil {
		return segment, written, err
	}
	latest, err := b.latestShards(ctx, id)
	if err != nil {
		return segment, written, err
	}
	for ; segment < d.Segments; segment++ {
		r, ok := latest[segment]
		if !ok {
			return segment, written, b.notWhole(ctx, id)
		}
		c, err := b.copyShard(ctx, id, r.round, segment, w)
		if err != nil {
			return segment, written, err
		}
		written.add(c)
	}
	return segment, written, nil
}

// notWhole returns an error for a batch that has ended and lacks output; nil for a running one.
func (b *Batches) notWhole(ctx context.Context, id string) error {
	_, end, err := b.lastRound(ctx, id)
	if err == nil && end != nil && end.EndedAt.Before(time.Now().Add(-time.Hour)) {
		err = fmt.Errorf("the output of batch %s is not whole: it has been deleted", id)
	}
	return err
}

// copyShard copies the output lines of a shard.
func (b *Batches) copyShard(ctx context.Context, id string, round, n int, w io.Writer) (Counts, error) {
	key := b.shardKey(id, round, n)
	body, err := b.Store.Get(ctx, key)
	if err != nil {
		return Counts{}, fmt.Errorf("get %s: %w", key, err)
	}
	defer body.Close()
	buffered := bufio.NewReaderSize(body, 256<<10)
	var h shardHead
	first, err := buffered.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(first, &h)
	}
	if err != nil {
		return h.Counts, fmt.Errorf("read %s: %w", key, err)
	}
	if _, err := buffered.WriteTo(w); err != nil {
		return h.Counts, fmt.Errorf("copy %s: %w", key, err)
	}
	return h.Counts, nil
}

// storeOutput puts the shards together in the bucket. It streams: memory use does not
// depend on the size.
func (d *driver) storeOutput(ctx context.Context, batch *Batch) error {
	return d.patiently(ctx, "the bucket", func(ctx context.Context) error {
		reader, writer := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := d.WriteOutput(ctx, batch.ID, writer)
			writer.CloseWithError(err) // nil means the end
		}()
		err := d.Store.Put(ctx, d.OutputKey(batch.ID), reader, "application/jsonl")
		reader.CloseWithError(io.ErrClosedPipe)
		<-done
		if err != nil {
			return fmt.Errorf("put the output: %w", err)
		}
		return nil
	})
}

// Lines yields the output lines of a batch as WriteOutput writes them, each without its
// end; a line is valid until the next one.
func (b *Batches) Lines(ctx context.Context, id string, yield func(line []byte) error) (Counts, error) {
	return b.WriteOutput(ctx, id, &lineSplitter{yield: yield})
}

// Answered is a line of a batch with its line of output, see Lines.
type Answered struct {
	Number int // in the file, from 1
	ID     string
	Kind   tasks.Kind // empty for an invalid line, as is Model
	Model  string
	Extra  RawJSON // of the format
	Output []byte
}

// Answers yields the lines of a batch with their output, as Lines yields the output. A line
// is valid until the next one.
func (b *Batches) Answers(ctx context.Context, id string, yield func(*Answered) error) (Counts, error) {
	d, err := b.Get(ctx, id)
	if err != nil {
		return Counts{}, err
	}
	var records []record
	segment := 0
	return b.Lines(ctx, id, func(line []byte) (err error) {
		if len(records) == 0 {
			if records, err = b.segment(ctx, d, segment); err != nil {
				return err
			}
			segment++
		}
		if len(records) == 0 {
			return fmt.Errorf("segment %d of batch %s is empty", segment-1, id)
		}
		r := records[0]
		records = records[1:]
		return yield(&Answered{Number: r.Number, ID: r.ID, Kind: r.Kind, Model: r.Model, Extra: r.Extra, Output: line})
	})
}

// lineSplitter is a Writer that calls a function for each line.
type lineSplitter struct {
	yield func([]byte) error
	rest  []byte
}

func (l *lineSplitter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, after, found := bytes.Cut(p, []byte("\n"))
		if !found {
			l.rest = append(l.rest, p...)
			return n, nil
		}
		if len(l.rest) > 0 {
			line = append(l.rest, line...)
		}
		if err := l.yield(line); err != nil {
			return 0, err
		}
		l.rest, p = l.rest[:0], after
	}
}
