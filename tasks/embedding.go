package tasks

import (
	"fmt"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Embedding turns each text into a vector.
type Embedding struct {
	Texts   []string `json:"texts"`
	Pooling string   `json:"pooling,omitempty"` // mean (default) or cls; the two are not comparable
}

// EmbeddingTexts is the most texts of one task. They are sent in calls of what the
// model takes at once.
const EmbeddingTexts = 1000

// embeddingBytes is the longest text: far above every model's context, low enough to
// refuse a file that was meant to be lines.
const embeddingBytes = 256 << 10

// Kind implements Payload.
func (Embedding) Kind() Kind { return KindEmbedding }

// Validate implements Payload.
func (e Embedding) Validate() error {
	var p Problems
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

func (e Embedding) checkModel(m catalogue.Model) Problems {
	var p Problems
	if e.Pooling != "" && !m.Pooling {
		p.add("pooling", "%s does not take it", m.ID)
	}
	return p
}
