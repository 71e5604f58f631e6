package handlers

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Guards are the names of the protections.
func Guards() []string {
	var names []string
	for _, g := range guards {
		names = append(names, string(g))
	}
	return names
}

// Without switches protections off; an unknown name panics.
func (c Config) Without(names ...string) Config {
	c.off = map[guard]bool{}
	for _, n := range names {
		if !slices.Contains(guards, guard(n)) {
			panic("there is no guard " + n)
		}
		c.off[guard(n)] = true
	}
	return c
}

// Watch has a lineage look after a client. look asks as is done before a task is taken, and
// gives how often another Redis was found so far.
func Watch(ctx context.Context, r redis.UniversalClient) (look func() (int, error), err error) {
	found := 0
	l := &lineage{redis: r, turn: make(chan struct{}, 1), changed: func(context.Context) { found++ }}
	err = l.watch(ctx, r)
	return func() (int, error) { err := l.look(ctx, false); return found, err }, err
}
