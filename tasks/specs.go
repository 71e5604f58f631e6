package tasks

import (
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Spec describes how tasks of a kind are handled. A new kind needs a row here, a payload
// file in this package and a handler.
type Spec struct {
	Kind     Kind
	Field    string        // the payload's main field, which the command line fills from its input
	Timeout  time.Duration // longest duration of one call
	MaxAge   time.Duration // default deadline, counted from acceptance
	Attempts int           // calls that may fail temporarily before the task fails

	parse func([]byte) (Payload, error)
	check func(Payload, catalogue.Model) ValidationError // the checks that depend on the model
	owns  func(Payload) bool                             // reports whether a payload has the Go type of the kind
}

// Specs has a row for each kind. The API itself ends an inference after two to four
// minutes; streamed text may take longer.
var Specs = []Spec{
	{Kind: KindTranscription, Field: "audio", Timeout: 5 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 5,
		parse: decode[Transcription], check: checked[Transcription], owns: isA[Transcription]},
	{Kind: KindImage, Field: "prompt", Timeout: 5 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 4,
		parse: decode[Image], check: checked[Image], owns: isA[Image]},
	{Kind: KindTranslation, Field: "text", Timeout: 2 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 6,
		parse: decode[Translation], check: checked[Translation], owns: isA[Translation]},
	{Kind: KindEmbedding, Field: "texts", Timeout: 2 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 6,
		parse: decode[Embedding], check: checked[Embedding], owns: isA[Embedding]},
	{Kind: KindText, Field: "prompt", Timeout: 10 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 5,
		parse: decode[Text], check: checked[Text], owns: isA[Text]},
}

func isA[P Payload](p Payload) bool {
	_, ok := p.(P)
	return ok
}

// checked adapts the checkModel method of a payload type to the table.
func checked[P interface {
	Payload
	checkModel(catalogue.Model) ValidationError
}](p Payload, m catalogue.Model) ValidationError {
	return p.(P).checkModel(m)
}

// SpecOf returns the row of a kind.
func SpecOf(k Kind) (Spec, bool) {
	for _, s := range Specs {
		if s.Kind == k {
			return s, true
		}
	}
	return Spec{}, false
}

// Model returns the default model of the kind.
func (s Spec) Model() string { return catalogue.Default(string(s.Kind)).ID }
