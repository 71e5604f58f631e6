// Package catalogue is the table of Workers AI models: the input, output, price and rate
// limit of each. It imports no other package of neuronmill, so producers can check a task
// against it without linking a client.
package catalogue

import (
	"slices"
	"strings"
	"time"
)

// Transport is the way in which a model takes its input over REST.
type Transport string

// The transports.
const (
	JSON      Transport = "json"
	RawAudio  Transport = "raw"       // the audio bytes are the body
	Multipart Transport = "multipart" // multipart/form-data, even for a bare prompt
)

// Answer is the format of a model's reply.
type Answer string

// The formats.
const (
	Native       Answer = "native"       // {response, usage, tool_calls?} in the envelope, or SSE
	Chat         Answer = "chat"         // chat.completion in the envelope, or SSE
	Vectors      Answer = "vectors"      // {shape, data}
	Translated   Answer = "translated"   // {translated_text}
	Translations Answer = "translations" // {translations: []}
	ImageBase64  Answer = "image_base64" // {image: base64}
	ImageBytes   Answer = "image_bytes"  // raw bytes
	Whisper      Answer = "whisper"      // {text, words, vtt}
	WhisperV3    Answer = "whisper_v3"   // {text, segments, vtt, transcription_info}
	Deepgram     Answer = "deepgram"     // {results: {channels}}
)

// Bound is an inclusive range of a numeric field; Max 0 means the model does not
// take the field.
type Bound struct{ Min, Max, Default float64 }

// Price is in neurons. The kind determines which fields are set; all zero means free or
// no published price.
type Price struct {
	PerMInput, PerMOutput float64 // per million tokens
	PerAudioMinute        float64
	PerTile, PerStep      float64 // images: (w*h/262144) * (PerTile + PerStep*steps)
	PerTileStep           float64 // flux-2-dev: for each tile and step
	PerImageMP            float64 // flux-2-klein-9b: first megapixel
	PerExtraMP            float64 // flux-2-klein-9b: each further megapixel
}

// Model is one row of the table.
type Model struct {
	ID          string
	Kind        string // a task kind; empty if neuronmill has no kind for the model
	Transport   Transport
	Answer      Answer
	PerMinute   int  // requests a minute and account
	Paid        bool // needs the Workers Paid plan
	Texts       int  // texts in one call; 0 means one
	CallTokens  int  // tokens in one call over all texts; 0 means no published limit
	TextTokens  int  // tokens of one text; 0 means no published limit
	Dimensions  int  // of a vector
	Pooling     bool // takes pooling
	Context     int  // tokens; 0 when not published
	Prompt      int  // characters of an image prompt; 0 means no published limit
	Width       Bound
	Height      Bound
	Steps       Bound
	Guidance    Bound
	Negative    bool // takes negative_prompt
	Seed        bool // takes seed
	StepsField  string
	Tools       bool
	JSONMode    bool
	Whole       bool // does not stream over the run route
	Price       Price
	WithdrawnOn string // a date, or a month when the day is not known; empty while available
	Successor   string // id to use instead; empty when there is none
	Notes       string
}

// Withdrawn reports whether the model is withdrawn on the day of now.
func (m Model) Withdrawn(now time.Time) bool {
	return m.WithdrawnOn != "" && m.WithdrawnOn <= now.UTC().Format(time.DateOnly)
}

var (
	all  = slices.SortedFunc(slices.Values(slices.Concat(textModels, mediaModels, languageModels, otherModels)), byID)
	rows = index(all)
)

// EstimateTokens estimates the tokens of a text on the high side: few texts have more than
// one token in three bytes. The estimate is at most the number of tokens that the model
// reads.
func (m Model) EstimateTokens(text string) int {
	n := len(text)/3 + 2
	if m.TextTokens > 0 {
		n = min(n, m.TextTokens)
	}
	return n
}

func byID(a, b Model) int { return strings.Compare(a.ID, b.ID) }

func index(models []Model) map[string]Model {
	m := make(map[string]Model, len(models))
	for _, row := range models {
		m[row.ID] = row
	}
	return m
}

// defaults are the models of tasks without a model, by kind.
var defaults = map[string]string{
	"transcription": "@cf/openai/whisper-large-v3-turbo",
	"image":         "@cf/black-forest-labs/flux-1-schnell",
	"translation":   "@cf/meta/m2m100-1.2b",
	"embedding":     "@cf/baai/bge-base-en-v1.5",
	"text":          "@cf/zai-org/glm-4.7-flash",
}

// Find returns the row of a model.
func Find(id string) (Model, bool) {
	m, ok := rows[id]
	return m, ok
}

// All returns every row, withdrawn ones included, in order of id.
func All() []Model { return slices.Clone(all) }

// Default returns the model of a kind's tasks without a model; the zero Model for an
// unknown kind.
func Default(kind string) Model { return rows[defaults[kind]] }
