package tasks

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Options of one task. The zero value is an interactive task of the kind's default
// model that runs at once and is given up after the spec's maximum age.
type Options struct {
	Lane           Lane
	Model          string
	Deadline       time.Time         // a task whose turn comes later ends as deadline_exceeded
	StartAt        time.Time         // not before; at most 90 days ahead
	IdempotencyKey string            // the same key gives the same task
	Metadata       map[string]string // comes back in the result
	Accept         Durability        // the client's when empty
}

// Option sets one of the Options.
type Option func(*Options)

// WithLane chooses the lane.
func WithLane(l Lane) Option { return func(o *Options) { o.Lane = l } }

// WithModel chooses the model.
func WithModel(id string) Option { return func(o *Options) { o.Model = id } }

// WithDeadline gives the task up at a time.
func WithDeadline(at time.Time) Option { return func(o *Options) { o.Deadline = at } }

// WithTimeToLive gives the task up after a while.
func WithTimeToLive(d time.Duration) Option {
	return func(o *Options) { o.Deadline = time.Now().Add(d) }
}

// WithStart lets the task run at a time or later.
func WithStart(at time.Time) Option { return func(o *Options) { o.StartAt = at } }

// WithDelay lets the task run after a while.
func WithDelay(d time.Duration) Option { return func(o *Options) { o.StartAt = time.Now().Add(d) } }

// WithIdempotencyKey makes enqueuing safe to repeat: the same key gives the same task.
func WithIdempotencyKey(key string) Option { return func(o *Options) { o.IdempotencyKey = key } }

// WithMetadata adds words of the producer's own, which come back in the result.
func WithMetadata(m map[string]string) Option {
	return func(o *Options) { o.Metadata = maps.Clone(m) }
}

// WithAccept chooses what the task survives with.
func WithAccept(d Durability) Option { return func(o *Options) { o.Accept = d } }

func (o Options) check(now time.Time) Problems {
	var p Problems
	if o.Lane != "" {
		oneOf(&p, "lane", string(o.Lane), string(Interactive), string(Bulk))
	}
	if !o.Deadline.IsZero() && !o.Deadline.After(now) {
		p.add("deadline", "has passed")
	}
	if o.StartAt.After(now.AddDate(0, 0, 90)) {
		p.add("start", "is more than 90 days ahead")
	}
	if !o.Deadline.IsZero() && o.StartAt.After(o.Deadline) {
		p.add("deadline", "lies before the start")
	}
	if k := o.IdempotencyKey; len(k) > 255 || !utf8.ValidString(k) || strings.ContainsFunc(k, unprintable) {
		p.add("idempotency_key", "wants at most 255 bytes of visible characters")
	}
	if len(o.Metadata) > 16 {
		p.add("metadata", "has %d pairs, more than 16", len(o.Metadata))
	}
	for _, k := range slices.Sorted(maps.Keys(o.Metadata)) {
		field, v := fmt.Sprintf("metadata.%s", quoteField(k)), o.Metadata[k]
		if k == "" || len(k) > 64 || len(v) > 512 {
			p.add(field, "wants a key of 1 to 64 and a value of at most 512 bytes")
		}
		if !utf8.ValidString(k+v) || strings.ContainsFunc(k+v, control) {
			p.add(field, "must be UTF-8 without control characters")
		}
	}
	return p
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
