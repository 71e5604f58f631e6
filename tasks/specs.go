package tasks

import (
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Spec says how tasks of a kind are handled. A new kind is a row here, a payload file
// beside this one and a handler.
type Spec struct {
	Kind     Kind
	Field    string        // the payload's main field, which the command line fills from its input
	Timeout  time.Duration // the longest a call may take
	MaxAge   time.Duration // the deadline of tasks that ask for none
	Attempts int           // calls that may fail for a passing reason

	parse func([]byte) (Payload, error)
	check func(Payload, catalogue.Model) Problems // what depends on the model
}

// Specs has a row for each kind. The API itself ends an inference after two to four
// minutes; streamed text may take longer.
var Specs = []Spec{
	{Kind: KindTranscription, Field: "audio", Timeout: 5 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 5,
		parse: decode[Transcription], check: checked[Transcription]},
	{Kind: KindImage, Field: "prompt", Timeout: 5 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 4,
		parse: decode[Image], check: checked[Image]},
	{Kind: KindTranslation, Field: "text", Timeout: 2 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 6,
		parse: decode[Translation], check: checked[Translation]},
	{Kind: KindEmbedding, Field: "texts", Timeout: 2 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 6,
		parse: decode[Embedding], check: checked[Embedding]},
	{Kind: KindText, Field: "prompt", Timeout: 10 * time.Minute, MaxAge: 72 * time.Hour, Attempts: 5,
		parse: decode[Text], check: checked[Text]},
}

// checked adapts a payload's own check to its row.
func checked[P interface {
	Payload
	checkModel(catalogue.Model) Problems
}](p Payload, m catalogue.Model) Problems {
	return p.(P).checkModel(m)
}

// SpecOf finds the row of a kind.
func SpecOf(k Kind) (Spec, bool) {
	for _, s := range Specs {
		if s.Kind == k {
			return s, true
		}
	}
	return Spec{}, false
}

// Model is the model of tasks that name none.
func (s Spec) Model() string { return catalogue.Default(string(s.Kind)).ID }
