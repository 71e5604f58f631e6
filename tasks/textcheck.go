package tasks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth is the maximum nesting depth of raw JSON in a payload.
const maxDepth = 100

// textProblems finds invalid text in a payload, by field. A string is invalid if it is
// not UTF-8 or has a NUL; raw JSON if it is malformed, has a NUL or is nested too deeply.
// The encoder would replace invalid bytes silently, and a paid call would use them.
func textProblems(payload Payload) ValidationError {
	var p ValidationError
	checkText(&p, "", reflect.ValueOf(payload))
	return p
}

func checkText(p *ValidationError, field string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			checkText(p, field, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if field != "" {
				name = field + "." + name
			}
			checkText(p, name, v.Field(i))
		}
	case reflect.Slice:
		if raw, ok := reflect.TypeAssert[jsontext.Value](v); ok {
			checkRaw(p, field, raw)
			return
		}
		for i := range v.Len() {
			checkText(p, fmt.Sprintf("%s[%d]", field, i), v.Index(i))
		}
	case reflect.String:
		checkString(p, field, v.String())
	}
}

func checkString(p *ValidationError, field, s string) {
	if i := strings.IndexByte(s, 0); i >= 0 {
		p.add(field, "has a NUL at byte %d", i)
	}
	if utf8.ValidString(s) {
		return
	}
	for i, r := range s {
		if _, size := utf8.DecodeRuneInString(s[i:]); r == utf8.RuneError && size == 1 {
			p.add(field, "is not valid UTF-8 at byte %d", i)
			return
		}
	}
}

func checkRaw(p *ValidationError, field string, raw jsontext.Value) {
	if len(raw) == 0 {
		return
	}
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	for values := 0; ; {
		token, err := d.ReadToken()
		switch {
		case errors.Is(err, io.EOF) && values == 1:
			return
		case err != nil:
			p.add(field, "is not valid JSON: %s", reason(err))
			return
		case token.Kind() == '"' && strings.Contains(token.String(), "\x00"):
			p.add(field, "has a NUL in a string")
			return
		case d.StackDepth() > maxDepth:
			p.add(field, "is nested more than %d levels deep", maxDepth)
			return
		}
		if d.StackDepth() == 0 {
			if values++; values > 1 {
				p.add(field, "is not valid JSON: a second value at byte %d", d.InputOffset())
				return
			}
		}
	}
}
