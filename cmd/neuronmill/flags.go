package main

import (
	"cmp"

	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// derive makes a flag for each field of the kind's payload except the main field, which is
// INPUT. The flag's help is the field's "doc" tag; its placeholder follows from the type
// unless the tag "placeholder" names another.
func (c *kindCmd[K, C]) derive() {
	payload := c.Kind.zero()
	spec, _ := tasks.SpecOf(payload.Kind())
	more := c.Kind.tags()
	var flags []reflect.StructField
	for field := range reflect.TypeOf(payload).Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == spec.Field {
			continue
		}
		kind, placeholder := flagType(field.Type)
		placeholder = cmp.Or(field.Tag.Get("placeholder"), placeholder)
		tag := fmt.Sprintf(`json:%q name:%q help:%q`, name, strings.ReplaceAll(name, "_", "-"), field.Tag.Get("doc"))
		if placeholder != "" {
			tag += fmt.Sprintf(` placeholder:%q`, placeholder)
		}
		flags = append(flags, reflect.StructField{Name: field.Name, Type: kind, Tag: reflect.StructTag(tag + " " + more[name])})
	}
	c.Fields = kong.Plugins{reflect.New(reflect.StructOf(flags)).Interface()}
}

// flagType returns the type of the flag for a payload field of type t, and its placeholder.
// A field that is neither a text nor a number nor a boolean is given as JSON.
func flagType(t reflect.Type) (kind reflect.Type, placeholder string) {
	value := t
	if t.Kind() == reflect.Pointer {
		value = t.Elem()
	}
	switch value.Kind() {
	case reflect.String:
		return t, "TEXT"
	case reflect.Int, reflect.Int64:
		return t, "N"
	case reflect.Float64:
		return t, "X"
	case reflect.Bool:
		return t, ""
	}
	return reflect.TypeFor[raw](), "JSON"
}

func (c kindCmd[K, C]) kind() tasks.Kind { return c.Kind.zero().Kind() }

// set returns the payload flags that were given, by their JSON names. Values keep their
// types, so that numbers keep their digits.
func (c kindCmd[K, C]) set() map[string]any {
	fields := map[string]any{}
	for _, flags := range c.Fields {
		v := reflect.ValueOf(flags).Elem()
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				fields[v.Type().Field(i).Tag.Get("json")] = v.Field(i).Interface()
			}
		}
	}
	return fields
}

// whole reports whether the flags alone are a payload, without an input.
func (c kindCmd[K, C]) whole() bool { return c.set()[c.Kind.whole()] != nil }

// raw is a flag with a JSON value.
type raw jsontext.Value

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *raw) UnmarshalText(text []byte) error {
	if !jsontext.Value(text).IsValid() {
		return errors.New("is not valid JSON in UTF-8")
	}
	*r = text
	return nil
}

// MarshalJSON returns the JSON unchanged.
func (r raw) MarshalJSON() ([]byte, error) { return r, nil }
