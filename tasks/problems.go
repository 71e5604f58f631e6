package tasks

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with an input.
type Problem struct {
	Field   string // "texts[3]", "model"; empty when it is the whole
	Message string
}

// Problems is everything wrong with an input, so that it can be mended in one go.
type Problems []Problem

func (p Problems) Error() string {
	parts := make([]string, len(p))
	for i, one := range p {
		parts[i] = one.Message
		if one.Field != "" {
			parts[i] = one.Field + ": " + one.Message
		}
	}
	return strings.Join(parts, "; ")
}

func (p *Problems) add(field, format string, args ...any) {
	*p = append(*p, Problem{field, fmt.Sprintf(format, args...)})
}

// err is p as an error: nil when there is no problem.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// between adds a problem when a given number is out of its range.
func between[N int | int64 | float64](p *Problems, field string, n *N, low, high N) {
	if n != nil && (*n < low || *n > high) {
		p.add(field, "%v is out of range, %v to %v", *n, low, high)
	}
}

func oneOf(p *Problems, field, value string, allowed ...string) {
	if value == "" {
		return
	}
	if slices.Contains(allowed, value) {
		return
	}
	p.add(field, "%s is none of %s", quote(value), strings.Join(allowed, ", "))
}

// quote shows an outsider's word, cut short: errors do not echo whole inputs.
func quote(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }
