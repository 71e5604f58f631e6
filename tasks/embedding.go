package tasks

import (
	"fmt"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Embedding turns each text into a vector.
type Embedding struct {
	Texts   []string `json:"texts"`
	Pooling string   `json:"pooling,omitempty" doc:"mean or cls; not comparable with each other." placeholder:"HOW"`
}

// EmbeddingTexts is the maximum number of texts of one task. The worker splits them into
// calls of the size that the model accepts.
const EmbeddingTexts = 1000

// embeddingBytes is the maximum length of one text. It exceeds every model's context, and
// still catches a whole file passed as one text by mistake.
const embeddingBytes = 256 << 10

// Kind implements Payload.
func (Embedding) Kind() Kind { return KindEmbedding }

// Validate implements Payload.
func (e Embedding) Validate() error {
	p := textProblems(e)
	if len(e.Texts) == 0 {
		p.add("texts", "is empty")
	}
	if len(e.Texts) > EmbeddingTexts {
		p.add("texts", "has %d texts, more than %d: make it several tasks", len(e.Texts), EmbeddingTexts)
	}
	for i, t := range e.Texts {
		switch {
		case blank(t):
			p.add(fmt.Sprintf("texts[%d]", i), "is empty")
		case len(t) > embeddingBytes:
			p.add(fmt.Sprintf("texts[%d]", i), "has %d bytes, more than %d", len(t), embeddingBytes)
		}
	}
	oneOf(&p, "pooling", e.Pooling, "mean", "cls")
	return p.err()
}

func (e Embedding) checkModel(m catalogue.Model) ValidationError {
	var p ValidationError
	if e.Pooling != "" && !m.Pooling {
		p.add("pooling", "%s does not take it", m.ID)
	}
	return p
}
