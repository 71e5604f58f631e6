package objects

import (
	"context"
	"iter"
	"strings"

	"github.com/neuronmill/neuronmill/storage"
	"golang.org/x/sync/errgroup"
)

// Inverted returns the complement of an id of hexadecimal digits. A bucket lists names in
// ascending order, and ids begin with their time: inverted ids are listed newest first.
func Inverted(id string) string {
	const digits = "0123456789abcdef"
	return strings.Map(func(r rune) rune {
		if n := strings.IndexRune(digits, r); n >= 0 {
			return rune(digits[len(digits)-1-n])
		}
		return r
	}, id)
}

// NewestFirst yields the ids of the documents <prefix><inverted id>.json, the newest first,
// that are older than the id before. An empty before starts with the newest.
func NewestFirst(ctx context.Context, s storage.Store, prefix, before string) iter.Seq2[string, error] {
	after := ""
	if before != "" {
		after = prefix + Inverted(before) + ".json"
	}
	return func(yield func(string, error) bool) {
		for info, err := range s.List(ctx, prefix, after) {
			if err != nil {
				yield("", err)
				return
			}
			if id, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, prefix), ".json"); ok && !yield(Inverted(id), nil) {
				return
			}
		}
	}
}

// loadsAtOnce is how many documents Page reads in parallel.
const loadsAtOnce = 16

// Page reads the documents of ids until it has limit of them. load returns nil for a
// document that does not belong to the page. more reports that another one follows.
func Page[T any](ctx context.Context, ids iter.Seq2[string, error], limit int, load func(ctx context.Context, id string) (*T, error)) (page []*T, more bool, err error) {
	next, stop := iter.Pull2(ids)
	defer stop()
	for {
		var some []string
		for len(some) <= min(limit-len(page), 4*loadsAtOnce) {
			id, err, ok := next()
			if err != nil {
				return nil, false, err
			}
			if !ok {
				break
			}
			some = append(some, id)
		}
		if len(some) == 0 {
			return page, false, nil
		}
		loaded := make([]*T, len(some))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(loadsAtOnce)
		for i, id := range some {
			g.Go(func() (err error) {
				loaded[i], err = load(ctx, id)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, false, err
		}
		for _, one := range loaded {
			switch {
			case one == nil:
			case len(page) == limit:
				return page, true, nil
			default:
				page = append(page, one)
			}
		}
	}
}
