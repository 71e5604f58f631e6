package openai

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/jsonsize"
	"github.com/neuronmill/neuronmill/tasks"
)

// fields reads the fields of a body by name. It keeps the first error, which names the
// field; later reads then return zero values.
type fields struct {
	members map[string]jsontext.Value
	prefix  string // "messages[2]." in a nested object
	err     error
}

// mostValues is the most values and names of a body. Decoded, each may take hundreds of
// bytes.
const mostValues = 100_000

// readFields reads a body strictly: one object, UTF-8, no field twice.
func readFields(body []byte) (*fields, error) {
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF")))
	f := &fields{}
	switch {
	case len(body) == 0:
		return nil, invalid("", "the body is empty; send a JSON object")
	case !utf8.Valid(body):
		return nil, invalid("", "the body is not valid UTF-8")
	case body[0] != '{':
		return nil, invalid("", "the body must be a JSON object")
	case jsonsize.Exceeds(body, mostValues):
		e := invalid("", "the body has more than %d values and names", mostValues)
		e.Status, e.Code = http.StatusRequestEntityTooLarge, tasks.CodeInputTooLarge
		return nil, e
	}
	if err := json.Unmarshal(body, &f.members); err != nil {
		return nil, invalid("", "the body is not valid JSON%s", fault(err))
	}
	return f, nil
}

// fault describes an error of the JSON library without the names and values of the body.
func fault(err error) string {
	syntactic, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case ok && errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Sprintf(": a field is given twice, at byte %d", syntactic.ByteOffset)
	case ok:
		return fmt.Sprintf(" at byte %d", syntactic.ByteOffset)
	}
	return ""
}

// has reports whether a field is given and not null.
func (f *fields) has(name string) bool {
	v := f.members[name]
	return len(v) > 0 && v.Kind() != 'n'
}

// fail keeps the first error.
func (f *fields) fail(name, format string, args ...any) {
	if f.err == nil {
		f.err = invalid(f.prefix+name, format, args...)
	}
}

// raw returns a field as JSON; nil if it is absent or null.
func (f *fields) raw(name string) jsontext.Value {
	if !f.has(name) {
		return nil
	}
	return f.members[name]
}

func (f *fields) text(name string) string { return value[string](f, name, "a string") }

func (f *fields) flag(name string) bool { return value[bool](f, name, "true or false") }

// value reads a field of a type; the zero value if it is absent or null.
func value[T any](f *fields, name, wanted string) (v T) {
	if f.err != nil || !f.has(name) {
		return v
	}
	if err := json.Unmarshal(f.members[name], &v); err != nil {
		f.fail(name, "must be %s", wanted)
	}
	return v
}

// pointer reads a field of a type; nil if it is absent or null.
func pointer[T any](f *fields, name, wanted string) *T {
	if !f.has(name) {
		return nil
	}
	v := value[T](f, name, wanted)
	return &v
}

// object reads a field that is an object; it has no members if the field is absent.
func (f *fields) object(name string) *fields {
	return &fields{members: value[map[string]jsontext.Value](f, name, "an object"), prefix: f.prefix + name + "."}
}

// list reads a field that is a list of objects.
func (f *fields) list(name string) []*fields {
	var all []*fields
	for i, members := range value[[]map[string]jsontext.Value](f, name, "a list of objects") {
		all = append(all, &fields{members: members, prefix: fmt.Sprintf("%s%s[%d].", f.prefix, name, i)})
	}
	return all
}

// take keeps the error of a nested object.
func (f *fields) take(nested *fields) {
	if f.err == nil {
		f.err = nested.err
	}
}

// only refuses a text that is given and is none of the allowed ones.
func (f *fields) only(name, why string, allowed ...string) {
	if given := f.text(name); given == "" || slices.Contains(allowed, given) {
		return
	}
	f.fail(name, "%s", why)
}

// refuse refuses a field that is given with another value than null, false, an empty
// string, list or object.
func (f *fields) refuse(name, why string) {
	switch compact := f.raw(name); string(compact) {
	case "", "false", `""`, "[]", "{}", "0":
	default:
		f.fail(name, "is not supported: %s", why)
	}
}
