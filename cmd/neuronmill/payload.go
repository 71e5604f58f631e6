package main

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

// action is run or enqueue.
type action interface {
	verb() string
	// file is the destination of the result's files; empty leaves them in the bucket.
	file() string
	// follows reports whether the text of a task is printed while the model writes it.
	follows() bool
}

// kindCmd is a command such as "run text": inputs, options, the flags of the kind's payload,
// and those of the command.
type kindCmd[K kindInput, C action] struct {
	Input   []string     `arg:"" optional:"" help:"What to work on; - reads one a line from stdin."`
	Command C            `embed:""`
	Fields  kong.Plugins `embed:""` // see derive
	Kind    K            `embed:""`
	Payload string       `placeholder:"JSON" help:"A whole payload instead of INPUT and flags; with - each line of stdin is one. A member \"key\" names the row."`
	Keyed   bool         `help:"Each line of stdin is a key that names the row, a tab and INPUT."`
	Options taskOptions  `embed:""`
}

// Help is shown by --help.
func (c kindCmd[K, C]) Help() string {
	var lines []string
	for _, e := range c.Kind.examples() {
		lines = append(lines, fmt.Sprintf("neuronmill %s %s %s", c.Command.verb(), c.kind(), e))
	}
	return examples(append(lines, c.Kind.examplesOf(c.Command.verb())...)...)
}

// AfterApply makes "--payload -" without an input mean stdin.
func (c *kindCmd[K, C]) AfterApply() error {
	if c.Payload == "-" && len(c.Input) == 0 {
		c.Input = []string{"-"}
	}
	return nil
}

// parse returns the payload of one input. For an invalid input, the error also lists the
// problems of its model and options.
func (c kindCmd[K, C]) parse(in input) parsed {
	p := parsed{input: in, err: in.err}
	if in.err != nil || in.blank {
		return p
	}
	key, text, err := c.splitKey(in)
	if err == nil {
		err = checkKey(key)
	}
	if err != nil {
		p.err = err
		return p
	}
	p.key = key
	if p.payload, p.err = c.payload(text); p.err == nil {
		return p
	}
	if _, file := p.payload.(tasks.Transcription); p.payload != nil && !file && !c.Options.AllowUnknownModel {
		p.err = tasks.Check(p.payload, c.Options.of(p, false)...) // never nil: the payload is not valid
	}
	p.payload = nil
	return p
}

// splitKey extracts the key of a row from a line or payload. The key may be empty.
func (c kindCmd[K, C]) splitKey(in input) (key, rest string, err error) {
	switch {
	case c.Keyed:
		key, rest, ok := strings.Cut(in.text, "\t")
		if !ok || key == "" {
			return "", "", tasks.ValidationError{{Field: rowKey, Message: "is missing: with --keyed a line is a key, a tab and the input"}}
		}
		return key, rest, nil
	case c.Payload == "-":
		return payloadKey(in.text)
	}
	return "", in.text, nil
}

// payloadKey removes the member "key" from a payload and returns it. It returns text that
// is not a JSON object unchanged: the kind's parser reports the error.
func payloadKey(text string) (key, rest string, err error) {
	var members map[string]jsontext.Value
	if json.Unmarshal([]byte(strings.TrimPrefix(text, "\uFEFF")), &members) != nil {
		return "", text, nil
	}
	value, ok := members[rowKey]
	if !ok {
		return "", text, nil
	}
	switch value.Kind() {
	case '"':
		err = json.Unmarshal(value, &key)
	case '0':
		key = value.String()
	}
	if err != nil || key == "" {
		return "", "", tasks.ValidationError{{Field: rowKey, Message: "wants a string or a number"}}
	}
	delete(members, rowKey)
	encoded, err := json.Marshal(members)
	if err != nil {
		return "", "", fmt.Errorf("read the payload: %w", err)
	}
	return key, string(encoded), nil
}

// checkKey refuses keys that task metadata cannot hold, or that would break the output
// lines.
func checkKey(key string) error {
	switch {
	case len(key) > 512:
		return tasks.ValidationError{{Field: rowKey, Message: fmt.Sprintf("has %d bytes, more than 512", len(key))}}
	case strings.ContainsFunc(key, unicode.IsControl):
		return tasks.ValidationError{{Field: rowKey, Message: "has a control character"}}
	}
	return nil
}

func (c kindCmd[K, C]) payload(input string) (tasks.Payload, error) {
	k := c.kind()
	if c.Payload == "-" {
		return tasks.Parse(k, []byte(input))
	}
	if c.Payload != "" {
		return tasks.Parse(k, []byte(c.Payload))
	}
	spec, _ := tasks.SpecOf(k)
	problems := checkText(spec.Field, input)
	fields := map[string]any{}
	for name, value := range c.set() {
		if text, ok := value.(string); ok {
			problems = append(problems, checkText(name, text)...)
		}
		fields[name] = value
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if !c.whole() {
		maps.Copy(fields, c.Kind.fill(spec.Field, input))
	}
	encoded, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("read the flags: %w", err)
	}
	return tasks.Parse(k, encoded)
}

// checkText refuses text that would be changed or lost on its way to a model.
func checkText(field, text string) tasks.ValidationError {
	switch {
	case !utf8.ValidString(text):
		return tasks.ValidationError{{Field: field, Message: "is not valid UTF-8"}}
	case strings.ContainsRune(text, 0):
		return tasks.ValidationError{{Field: field, Message: "has a NUL character"}}
	}
	return nil
}

// check reports problems of the arguments and of their combination. Lines of stdin are
// checked as they arrive.
func (c kindCmd[K, C]) check(g *globals) error {
	switch given := len(c.Input) > 0; {
	case c.Command.follows() && (g.asJSON || isStdin(c.Input)):
		return app.Usage(errors.New("--stream prints texts for people while they are written: leave --json and - away"))
	case c.Keyed && (!isStdin(c.Input) || c.Payload != ""):
		return app.Usage(errors.New("--keyed is for lines of stdin: give - as INPUT; payloads have their key in a member \"key\""))
	case c.Payload == "-" && !isStdin(c.Input):
		return app.Usage(errors.New("--payload - reads payloads from stdin, one JSON object a line: leave INPUT away"))
	case c.Payload != "" && c.Payload != "-" && given:
		return app.Usage(errors.New("--payload is a whole payload: leave INPUT away"))
	case c.whole() && given:
		return app.Usage(errors.New("--messages are a whole conversation: leave INPUT away"))
	case c.Payload == "" && !given && !c.whole():
		return app.Usage(fmt.Errorf("INPUT is missing; try: neuronmill %s %s --help", c.Command.verb(), c.kind()))
	case isStdin(c.Input):
		return nil
	}
	var errs []error
	for in := range c.each(g) {
		if in.err != nil {
			errs = append(errs, c.at(in, in.err))
		}
	}
	return app.Usage(errors.Join(errs...))
}
