package handlers

import "slices"

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
