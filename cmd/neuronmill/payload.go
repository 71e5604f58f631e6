package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
)

// kinds are the kinds as subcommands, with their payload fields as flags.
type kinds[C any] struct {
	Transcription kindCmd[transcriptionFlags, C] `cmd:"" help:"Turn speech into text. INPUT is an audio file or an https URL."`
	Image         kindCmd[imageFlags, C]         `cmd:"" help:"Draw a picture. INPUT is the prompt."`
	Translation   kindCmd[translationFlags, C]   `cmd:"" help:"Translate. INPUT is the text; --target-lang says into what."`
	Embedding     kindCmd[embeddingFlags, C]     `cmd:"" help:"Turn text into a vector. INPUT is the text."`
	Text          kindCmd[textFlags, C]          `cmd:"" help:"Generate text. INPUT is the prompt."`
}

// kindCmd is "run text" and its like: inputs, options, the kind's own flags, and what
// the command adds.
type kindCmd[F flags, C any] struct {
	Input   []string    `arg:"" optional:"" help:"What to work on; - reads one a line from stdin."`
	Payload string      `placeholder:"JSON" help:"A whole payload instead of INPUT and flags; with - each line of stdin is one."`
	Options taskOptions `embed:""`
	Fields  F           `embed:""`
	Command C           `embed:""`
}

// flags are the payload fields of one kind.
type flags interface {
	kind() tasks.Kind
	// with gives the payload's fields for one input.
	with(input string) map[string]any
	// whole reports whether the flags are a payload by themselves, without an input.
	whole() bool
	// examples are what may follow "neuronmill run" or "enqueue".
	examples() []string
}

// Help is shown by --help.
func (c kindCmd[F, C]) Help() string {
	verb := "run"
	if _, ok := any(c.Command).(enqueueOne); ok {
		verb = "enqueue"
	}
	var b strings.Builder
	b.WriteString("For example:\n\n")
	for _, e := range c.Fields.examples() {
		fmt.Fprintf(&b, "  neuronmill %s %s %s\n", verb, c.Fields.kind(), e)
	}
	return b.String()
}

// AfterApply lets "--payload -" alone mean stdin.
func (c *kindCmd[F, C]) AfterApply() error {
	if c.Payload == "-" && len(c.Input) == 0 {
		c.Input = []string{"-"}
	}
	return nil
}

// taskOptions are the options that every kind has.
type taskOptions struct {
	Model             string            `placeholder:"ID" help:"Which model; see neuronmill models." group:"options"`
	Lane              string            `enum:"interactive,bulk" default:"interactive" help:"interactive or bulk." group:"options"`
	Deadline          time.Duration     `placeholder:"10m" help:"Give a task up after so long." group:"options"`
	Delay             time.Duration     `placeholder:"1h" help:"Run it so much later." group:"options"`
	Start             time.Time         `placeholder:"RFC3339" help:"Run it at that time or later." group:"options"`
	IdempotencyKey    string            `placeholder:"KEY" help:"The same key gives the same task; of several inputs each adds its number." group:"options"`
	Metadata          map[string]string `placeholder:"K=V" mapsep:"," help:"Words of yours that come back in the result." group:"options"`
	Accept            string            `enum:"store,redis" default:"store" help:"What an accepted task survives with: store, a record in the bucket; redis, faster and as durable as Redis." group:"options"`
	AllowUnknownModel bool              `help:"Let a model through that neuronmill does not know." group:"options"`
}

// of gives the options of the input number n of several.
func (o taskOptions) of(n int, several bool) []tasks.Option {
	options := []tasks.Option{tasks.WithLane(tasks.Lane(o.Lane)), tasks.WithModel(o.Model), tasks.WithMetadata(o.Metadata), tasks.WithAccept(tasks.Durability(o.Accept))}
	if o.Deadline != 0 {
		options = append(options, tasks.WithTimeToLive(o.Deadline))
	}
	if o.Delay != 0 {
		options = append(options, tasks.WithDelay(o.Delay))
	}
	if !o.Start.IsZero() {
		options = append(options, tasks.WithStart(o.Start))
	}
	if key := o.IdempotencyKey; key != "" {
		if several {
			key = fmt.Sprintf("%s/%d", key, n)
		}
		options = append(options, tasks.WithIdempotencyKey(key))
	}
	return options
}

// payload makes the payload of one input. One that is not valid is told together with
// what is wrong with its model and options.
func (c kindCmd[F, C]) payload(input string) (tasks.Payload, error) {
	p, err := c.parse(input)
	if err == nil {
		return p, nil
	}
	if _, file := p.(tasks.Transcription); p != nil && !file && !c.Options.AllowUnknownModel {
		err = tasks.Check(p, c.Options.of(1, false)...) // not nil: the payload is not valid
	}
	return nil, err
}

func (c kindCmd[F, C]) parse(input string) (tasks.Payload, error) {
	k := c.Fields.kind()
	if c.Payload == "-" {
		return tasks.Parse(k, []byte(input))
	}
	if c.Payload != "" {
		return tasks.Parse(k, []byte(c.Payload))
	}
	encoded, err := json.Marshal(c.Fields)
	var fields map[string]any
	if err == nil {
		err = json.Unmarshal(encoded, &fields)
	}
	if err != nil {
		return nil, fmt.Errorf("read the flags: %w", err)
	}
	if !c.Fields.whole() {
		maps.Copy(fields, c.Fields.with(input))
	}
	encoded, err = json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("read the flags: %w", err)
	}
	return tasks.Parse(k, encoded)
}

// check reports what is wrong with the inputs that are there already, and with the way
// they were given; lines of stdin are checked as they come.
func (c kindCmd[F, C]) check(g *globals) error {
	switch given := len(c.Input) > 0; {
	case c.Payload == "-" && !isStdin(c.Input):
		return app.Usage(errors.New("--payload - reads payloads from stdin, one JSON object a line: leave INPUT away"))
	case c.Payload != "" && c.Payload != "-" && given:
		return app.Usage(errors.New("--payload is a whole payload: leave INPUT away"))
	case c.Fields.whole() && given:
		return app.Usage(errors.New("--messages are a whole conversation: leave INPUT away"))
	case c.Payload == "" && !given && !c.Fields.whole():
		return app.Usage(fmt.Errorf("INPUT is missing; try: neuronmill run %s --help", c.Fields.kind()))
	case isStdin(c.Input):
		return nil
	}
	var errs []error
	for in := range c.each(g) {
		if in.err != nil {
			errs = append(errs, c.at(in.n, in.err))
		}
	}
	return app.Usage(errors.Join(errs...))
}

// raw is a flag that is JSON.
type raw json.RawMessage

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *raw) UnmarshalText(text []byte) error {
	if !json.Valid(text) {
		return errors.New("is not valid JSON")
	}
	*r = text
	return nil
}

// MarshalJSON gives the JSON as it is.
func (r raw) MarshalJSON() ([]byte, error) { return r, nil }

type transcriptionFlags struct {
	Language      string `json:"language,omitempty" placeholder:"CODE" help:"ISO code; detected when left out."`
	Task          string `json:"task,omitempty" placeholder:"TASK" help:"transcribe, or translate into English."`
	InitialPrompt string `json:"initial_prompt,omitempty" placeholder:"TEXT" help:"Words that help the model."`
	VADFilter     *bool  `json:"vad_filter,omitempty" name:"vad-filter" help:"Leave out what is not speech."`
}

func (transcriptionFlags) kind() tasks.Kind { return tasks.KindTranscription }
func (transcriptionFlags) whole() bool      { return false }
func (transcriptionFlags) with(input string) map[string]any {
	field := "path"
	if isURL(input) {
		field = "url"
	}
	return map[string]any{"audio": map[string]string{field: input}}
}

type imageFlags struct {
	NegativePrompt string   `json:"negative_prompt,omitempty" placeholder:"TEXT" help:"What should not be seen."`
	Width          int      `json:"width,omitempty" placeholder:"N" help:"Pixels."`
	Height         int      `json:"height,omitempty" placeholder:"N" help:"Pixels."`
	Steps          *int     `json:"steps,omitempty" placeholder:"N" help:"More is finer, slower and dearer."`
	Guidance       *float64 `json:"guidance,omitempty" placeholder:"X" help:"How closely to follow the prompt."`
	Seed           *int64   `json:"seed,omitempty" placeholder:"N" help:"The same seed gives the same picture."`
}

func (imageFlags) kind() tasks.Kind                 { return tasks.KindImage }
func (imageFlags) whole() bool                      { return false }
func (imageFlags) with(input string) map[string]any { return map[string]any{"prompt": input} }

type translationFlags struct {
	SourceLang string `json:"source_lang,omitempty" placeholder:"CODE" help:"Code of the text's language; en when left out."`
	TargetLang string `json:"target_lang,omitempty" placeholder:"CODE" help:"Code of the language wanted."`
}

func (translationFlags) kind() tasks.Kind                 { return tasks.KindTranslation }
func (translationFlags) whole() bool                      { return false }
func (translationFlags) with(input string) map[string]any { return map[string]any{"text": input} }

type embeddingFlags struct {
	Pooling string `json:"pooling,omitempty" placeholder:"HOW" help:"mean or cls; not comparable with each other."`
}

func (embeddingFlags) kind() tasks.Kind { return tasks.KindEmbedding }
func (embeddingFlags) whole() bool      { return false }
func (embeddingFlags) with(input string) map[string]any {
	return map[string]any{"texts": []string{input}}
}

type textFlags struct {
	Messages          raw      `json:"messages,omitempty" xor:"conversation" placeholder:"JSON" help:"A whole conversation instead of INPUT: [{role, content}]."`
	MaxTokens         *int     `json:"max_tokens,omitempty" placeholder:"N" help:"The longest answer."`
	Temperature       *float64 `json:"temperature,omitempty" placeholder:"X" help:"0 to 5; lower is steadier."`
	TopP              *float64 `json:"top_p,omitempty" placeholder:"X" help:"0.001 to 1."`
	TopK              *int     `json:"top_k,omitempty" placeholder:"N" help:"1 to 50."`
	Seed              *int64   `json:"seed,omitempty" placeholder:"N" help:"1 to 9999999999."`
	RepetitionPenalty *float64 `json:"repetition_penalty,omitempty" placeholder:"X" help:"0 to 2."`
	FrequencyPenalty  *float64 `json:"frequency_penalty,omitempty" placeholder:"X" help:"-2 to 2."`
	PresencePenalty   *float64 `json:"presence_penalty,omitempty" placeholder:"X" help:"-2 to 2."`
	ReasoningEffort   string   `json:"reasoning_effort,omitempty" placeholder:"HOW" help:"low, medium or high."`
	Stop              raw      `json:"stop,omitempty" placeholder:"JSON" help:"A string or a list of them."`
	Tools             raw      `json:"tools,omitempty" placeholder:"JSON" help:"Functions the model may ask for."`
	ToolChoice        raw      `json:"tool_choice,omitempty" placeholder:"JSON" help:"auto, none, required or a named one, as JSON."`
	ResponseFormat    raw      `json:"response_format,omitempty" placeholder:"JSON" help:"JSON mode."`
	System            string   `json:"-" xor:"conversation" placeholder:"TEXT" help:"A system message before the prompt."`
}

func (textFlags) kind() tasks.Kind { return tasks.KindText }
func (f textFlags) whole() bool    { return len(f.Messages) > 0 }
func (f textFlags) with(input string) map[string]any {
	if f.System == "" {
		return map[string]any{"prompt": input}
	}
	return map[string]any{"messages": []map[string]string{{"role": "system", "content": f.System}, {"role": "user", "content": input}}}
}

func (transcriptionFlags) examples() []string {
	return []string{
		`call.mp3`,
		`https://media.example.org/talk.mp3 --language de`,
		`a.wav b.wav --task translate --metadata project=archive`,
	}
}

func (imageFlags) examples() []string {
	return []string{
		`"a mill by a river"`,
		`"a mill" --model @cf/leonardo/phoenix-1.0 --width 512 --height 512 --seed 7`,
	}
}

func (translationFlags) examples() []string {
	return []string{
		`"Good morning" --target-lang es`,
		`"Guten Tag" --source-lang de --target-lang fr`,
		`- --target-lang de < texts.txt`,
	}
}

func (embeddingFlags) examples() []string {
	return []string{
		`"red apples" --model @cf/baai/bge-m3`,
		`- --lane bulk < titles.txt`,
		`--payload '{"texts": ["red", "green"]}'`,
	}
}

func (textFlags) examples() []string {
	return []string{
		`"Name three rivers" --max-tokens 200`,
		`"Weather in Lisbon?" --tools '[{"name": "weather", "description": "look it up", "parameters": {"type": "object"}}]'`,
		`"A colour" --response-format '{"type": "json_object"}'`,
		`--messages '[{"role": "user", "content": "Hello"}]'`,
		`--payload - < requests.jsonl`,
	}
}
