package api

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/jsonsize"
	"github.com/neuronmill/neuronmill/internal/schedule"
	"github.com/neuronmill/neuronmill/internal/spelling"
	"github.com/neuronmill/neuronmill/tasks"
)

func init() {
	// These are variables of package huma. Its own errors repeat the value of each wrong
	// field, and for an unknown field the whole body.
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return humaProblem(nil, status, message, errs...)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		return humaProblem(ctx, status, message, errs...)
	}
	huma.ValidateStrictCasing = true
}

// jsonError begins the messages of strictJSON, which huma passes on as text.
const jsonError = "neuronmill json: "

// mostValues is the most values and names of a body. A thousand tasks with a hundred texts
// each have half of that.
const mostValues = 250_000

// strictJSON refuses what encoding/json lets through: names that repeat or differ in case,
// invalid UTF-8 and bytes after the value. It also refuses bodies that would take many
// times their size in memory.
var strictJSON = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		if err := json.MarshalWrite(w, v); err != nil {
			return err
		}
		_, err := io.WriteString(w, "\n")
		return err
	},
	Unmarshal: func(data []byte, v any) error {
		if jsonsize.Exceeds(data, mostValues) {
			return fmt.Errorf("%s%s has more than %d values and names", jsonError, codeBodyTooLarge, mostValues)
		}
		err := json.Unmarshal(data, v)
		if err == nil {
			return nil
		}
		code, text := describeJSON(err)
		return errors.New(jsonError + code + " " + text)
	},
}

// describeJSON describes an error of the JSON library without any byte of the input.
func describeJSON(err error) (code, text string) {
	var syntactic *jsontext.SyntacticError
	switch {
	case !errors.As(err, &syntactic):
		return codeFieldType, "a field has a type that it should not have"
	case strings.Contains(syntactic.Err.Error(), "UTF-8") || strings.Contains(syntactic.Err.Error(), "surrogate"):
		return codeInvalidUTF8, fmt.Sprintf("not valid UTF-8 at byte %d", syntactic.ByteOffset)
	case errors.Is(err, jsontext.ErrDuplicateName):
		return codeInvalidJSON, fmt.Sprintf("a name repeats within an object, at byte %d", syntactic.ByteOffset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return codeInvalidJSON, fmt.Sprintf("it ends too early, at byte %d", syntactic.ByteOffset)
	}
	return codeInvalidJSON, fmt.Sprintf("not valid JSON at byte %d", syntactic.ByteOffset)
}

// jsonCode splits the message of strictJSON.
func jsonCode(message string) (code, text string) {
	code, text, _ = strings.Cut(message, " ")
	return code, text
}

// knownNames are the names of fields that an answer may repeat in full.
var knownNames = payloadNames()

func payloadNames() map[string]bool {
	names := map[string]bool{"input": true, "metadata": true, "idempotency_key": true, "": true}
	for _, p := range []any{taskRequest{}, schedule.Definition{}, tasks.Transcription{}, tasks.Image{}, tasks.Translation{}, tasks.Embedding{}, tasks.Text{}} {
		addNames(reflect.TypeOf(p), names)
	}
	return names
}

func addNames(t reflect.Type, names map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && !names[name] {
			names[name] = true
			addNames(field.Type, names)
		}
	}
}

// fieldNames returns the names that a request with this input type may use: parameters
// and, at any depth, fields of the body.
func fieldNames(input reflect.Type) map[string]bool {
	names := map[string]bool{}
	for field := range input.Fields() {
		if field.Name == "Body" {
			addNames(field.Type, names)
		}
		for _, place := range []string{"query", "path", "header"} {
			if name, _, _ := strings.Cut(field.Tag.Get(place), ","); name != "" {
				names[name] = true
			}
		}
	}
	return names
}

// namesOf returns the fieldNames of an operation that jsonRoute has registered.
func namesOf(ctx huma.Context) map[string]bool {
	if ctx == nil || ctx.Operation() == nil {
		return nil
	}
	names, _ := ctx.Operation().Metadata[metadataNames].(map[string]bool)
	return names
}

// metadataNames is the key of the fieldNames in the metadata of an operation.
const metadataNames = "names"

// nearestName returns a hint at the name that is most similar to an unknown one.
func nearestName(name string, known map[string]bool) string {
	meant := spelling.Nearest(name, slices.Sorted(maps.Keys(known)), spelling.Close)
	if meant == "" {
		return ""
	}
	return "; did you mean " + meant + "?"
}
