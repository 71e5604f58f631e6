package tasks

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/spelling"
)

// Parse reads the JSON of a payload strictly and validates it. It returns all errors as
// ValidationError: unknown fields (with a suggestion), duplicate keys, wrong types, invalid
// UTF-8, and the problems that Validate finds. With problems of Validate alone it also
// returns the payload.
func Parse(k Kind, data []byte) (Payload, error) {
	spec, ok := SpecOf(k)
	if !ok {
		return nil, unknownKind(k)
	}
	p, err := spec.parse(data)
	if err != nil {
		return nil, err
	}
	return p, p.Validate()
}

func unknownKind(k Kind) error {
	var names []string
	for _, s := range Specs {
		names = append(names, string(s.Kind))
	}
	return problem("kind", "%s is none of %s", quote(string(k)), strings.Join(names, ", "))
}

// decode reads a payload field by field, so that it reports all wrong fields.
func decode[P Payload](data []byte) (Payload, error) {
	var (
		payload  P
		problems ValidationError
		members  map[string]jsontext.Value
	)
	data = bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return nil, problem("", "the payload is empty")
	case !utf8.Valid(data):
		return nil, problem("", "the payload is not valid UTF-8")
	}
	if err := json.Unmarshal(data, &members); err != nil {
		if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
			return nil, problem("", "the payload is a list; one task takes one object")
		}
		return nil, problem(fieldOf(err), "not valid JSON: %s", reason(err))
	}
	fields := fieldsOf(reflect.ValueOf(&payload).Elem())
	for _, name := range slices.Sorted(maps.Keys(members)) {
		field, ok := fields[name]
		if !ok {
			problems.add(quoteField(name), "no such field%s", nearest(name, fields))
			continue
		}
		err := json.Unmarshal(members[name], field.Addr().Interface(), json.RejectUnknownMembers(true))
		if err != nil {
			problems.add(name+fieldOf(err), "%s", reason(err))
		}
	}
	return payload, problems.err()
}

// fieldsOf maps the JSON names of a struct to its fields.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = v.Field(i)
	}
	return fields
}

// reason rewrites an error of the JSON library without Go type names.
func reason(err error) string {
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		if errors.Is(err, json.ErrUnknownName) {
			return "no such field"
		}
		if semantic.GoType != nil && semantic.JSONKind != 0 {
			return fmt.Sprintf("wants %s, not %s", wanted(semantic.GoType), kindName(semantic.JSONKind))
		}
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Sprintf("%v at byte %d", syntactic.Err, syntactic.ByteOffset)
	}
	return err.Error()
}

// fieldOf returns the position of an error within a value: ".key", "[3]".
func fieldOf(err error) string {
	var pointer jsontext.Pointer
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &semantic):
		pointer = semantic.JSONPointer
	case errors.As(err, &syntactic):
		pointer = syntactic.JSONPointer
	}
	const most = 100
	var b strings.Builder
	for token := range pointer.Tokens() {
		if b.Len() > most {
			b.WriteString("…")
			break
		}
		if strings.Trim(token, "0123456789") == "" {
			b.WriteString("[" + token + "]")
			continue
		}
		b.WriteString("." + quoteField(token))
	}
	return b.String()
}

func quoteField(name string) string {
	if quoted := quote(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case '"':
		return "a string"
	case '0':
		return "this number"
	case 't', 'f':
		return "true or false"
	case '[':
		return "a list"
	case '{':
		return "an object"
	}
	return "null"
}

// nearest hints at the known name that is most similar to a misspelt one, or lists them all.
func nearest[V any](name string, known map[string]V) string {
	names := slices.Sorted(maps.Keys(known))
	if meant := spelling.Nearest(name, names, spelling.Close); meant != "" {
		return "; did you mean " + meant + "?"
	}
	return "; there are " + strings.Join(names, ", ")
}
