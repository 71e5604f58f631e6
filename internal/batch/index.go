package batch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/storage"
)

// An index says which lines the shards of a tenant answer, so that another batch can take
// their output. It is an object for each group of segments of a round, written once all its
// shards are stored, from the directories in these: after a crash the next driver writes
// what is missing. The folder of the day of the batch holds it:
//
//	<tenant>/batches/index/2026-11-27/<id>/<round>/000003
//
// Those of samples are in the folder samples instead. An entry has the digest of a line, its segment, offset and length in the shard, and the
// time of the shard in seconds.

const (
	groupSegments = 64
	indexEntry    = len(digest{}) + 4*4
	// mostIndexes bounds the objects that a batch reads to find results: the latest ones.
	mostIndexes = 10_000
)

func (b *Batches) indexRoot() string  { return b.root() + "index/" }
func (b *Batches) sampleRoot() string { return b.root() + "samples/" }

// indexKey returns the key of an index below one of the roots.
func indexKey(root string, day time.Time, id string, round, group int) string {
	return root + path.Join(day.UTC().Format(time.DateOnly), id, strconv.Itoa(round), fmt.Sprintf("%06d", group))
}

// groupKey returns the key of the index of a group of this round.
func (d *driver) groupKey(group int) string {
	began := d.batch.CreatedAt
	if d.round.Number > 0 {
		began = d.round.CreatedAt
	}
	root := d.indexRoot()
	if d.batch.Sample {
		root = d.sampleRoot()
	}
	return indexKey(root, began, d.batch.ID, d.round.Number, group)
}

// groups counts the segments of each group that have no shard in this round yet.
func (d *driver) groups() {
	d.missing, d.indexed = map[int]int{}, map[int]bool{}
	for n := range d.batch.Segments {
		if d.latestRound(n) != d.round.Number {
			d.missing[n/groupSegments]++
		}
	}
}

// passed notes that a segment needs no more work, and indexes its group after the last one.
func (d *driver) passed(ctx context.Context, segment int) error {
	group := segment / groupSegments
	d.mu.Lock()
	d.missing[group]--
	last := d.missing[group] == 0
	d.mu.Unlock()
	if !last {
		return nil
	}
	return d.index(ctx, group)
}

// index writes the index of a group whose shards are stored.
func (d *driver) index(ctx context.Context, group int) error {
	var entries []byte
	for n := group * groupSegments; n < min((group+1)*groupSegments, d.batch.Segments); n++ {
		if d.latestRound(n) != d.round.Number {
			continue
		}
		err := d.patiently(ctx, "the bucket", func(ctx context.Context) error {
			shape, err := d.layoutOf(ctx, d.round.Number, n)
			if err == nil {
				entries = shape.appendEntries(entries, n)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if len(entries) > 0 {
		key := d.groupKey(group)
		err := d.patiently(ctx, "the bucket", func(ctx context.Context) error {
			err := d.Store.Create(ctx, key, bytes.NewReader(entries), "application/octet-stream")
			if err != nil && !errors.Is(err, storage.ErrExists) {
				return fmt.Errorf("create %s: %w", key, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.indexed[group] = true
	return nil
}

// appendEntries appends the entries of a shard to those of others.
func (l layout) appendEntries(entries []byte, segment int) []byte {
	offset := l.head
	for i := range l.lines.lines() {
		content, length := l.lines.line(i)
		if content != (digest{}) {
			entries = append(entries, content[:]...)
			for _, n := range []int{segment, offset, length, int(l.at.Unix())} {
				entries = binary.LittleEndian.AppendUint32(entries, uint32(n))
			}
		}
		offset += length + 1
	}
	return entries
}

// indexRest indexes the groups that an earlier driver finished and may not have indexed.
func (d *driver) indexRest(ctx context.Context) error {
	known := map[string]bool{}
	err := d.patiently(ctx, "the bucket", func(ctx context.Context) error {
		for info, err := range d.Store.List(ctx, path.Dir(d.groupKey(0))+"/", "") {
			if err != nil {
				return fmt.Errorf("list the index of the batch: %w", err)
			}
			known[info.Key] = true
		}
		return nil
	})
	for group := 0; err == nil && group*groupSegments < d.batch.Segments; group++ {
		if !d.indexed[group] && !known[d.groupKey(group)] {
			err = d.index(ctx, group)
		}
	}
	return err
}

// indexes returns the keys of the indexes below a root that may have results of a time or
// later: the latest ones, and most of them at most. A batch may have begun a month before its
// last result.
func (b *Batches) indexes(ctx context.Context, root string, since time.Time, most int) (keys []string, err error) {
	after := root + since.Add(-longestBatch).UTC().Format(time.DateOnly)
	for info, err := range b.Store.List(ctx, root, after) {
		if err != nil {
			return nil, fmt.Errorf("list the results of other batches: %w", err)
		}
		if info.Modified.Before(since) {
			continue
		}
		if keys = append(keys, info.Key); len(keys) == 2*most {
			keys = slices.Clone(keys[most:])
		}
	}
	return keys[max(len(keys)-most, 0):], nil
}

// longestBatch is how long the results of a batch are looked for after it began.
const longestBatch = 31 * 24 * time.Hour

// indexOrigin returns the batch and the round of an index, as "id/round".
func indexOrigin(key string) (string, bool) {
	parts := strings.Split(key, "/")
	if len(parts) < 4 || !batchID.MatchString(parts[len(parts)-3]) {
		return "", false
	}
	return parts[len(parts)-3] + "/" + parts[len(parts)-2], true
}
