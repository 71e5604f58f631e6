package tasks

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one error in an input.
type Problem struct {
	Field   string // "texts[3]", "model"; empty for the whole input
	Message string
	Code    string // a stable code of this problem, such as same_language; may be empty
}

// ValidationError lists all errors in an input, so that a person can fix them together.
type ValidationError []Problem

func (p ValidationError) Error() string {
	parts := make([]string, len(p))
	for i, one := range p {
		parts[i] = one.Message
		if one.Field != "" {
			parts[i] = one.Field + ": " + one.Message
		}
	}
	return strings.Join(parts, "; ")
}

// problem returns an error with one problem.
func problem(field, format string, args ...any) error {
	var p ValidationError
	p.add(field, format, args...)
	return p
}

// Code returns the stable code that all problems share, otherwise payload_invalid.
func (p ValidationError) Code() string {
	for _, one := range p {
		if one.Code == "" || one.Code != p[0].Code {
			return CodePayloadInvalid
		}
	}
	if len(p) == 0 {
		return CodePayloadInvalid
	}
	return p[0].Code
}

func (p *ValidationError) add(field, format string, args ...any) {
	*p = append(*p, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// err returns p as an error, or nil if there is no problem.
func (p ValidationError) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// between adds a problem if a number is set and out of range.
func between[N int | int64 | float64](p *ValidationError, field string, n *N, low, high N) {
	if n != nil && (*n < low || *n > high) {
		p.add(field, "%v is out of range, %v to %v", *n, low, high)
	}
}

func oneOf(p *ValidationError, field, value string, allowed ...string) {
	if value == "" {
		return
	}
	if slices.Contains(allowed, value) {
		return
	}
	p.add(field, "%s is none of %s", quote(value), strings.Join(allowed, ", "))
}

// quote shows user input, truncated: errors do not repeat whole inputs.
func quote(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }
