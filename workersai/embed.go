package workersai

import (
	"context"
	"math"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// EmbedInput is what an embedding model takes: at most as many texts as the catalogue
// says for the model.
type EmbedInput struct {
	Texts   []string
	Pooling string // mean or cls; the model's default (mean) when empty
}

// Embedding is one vector a text, in their order.
type Embedding struct {
	Dimensions int
	Vectors    [][]float32
}

// Embed turns texts into vectors. A count or size that does not fit the texts, or a
// number that is none, is an error: half an answer is not used.
func (c *Client) Embed(ctx context.Context, model string, in EmbedInput) (*Embedding, Meta, error) {
	body := map[string]any{"text": in.Texts}
	if in.Pooling != "" {
		body["pooling"] = in.Pooling
	}
	var answer struct {
		Data     [][]float32 `json:"data"`
		Response [][]float32 `json:"response"` // bge-m3 in one of its modes
	}
	meta, err := c.ask(ctx, model, body, &answer)
	if err != nil {
		return nil, meta, err
	}
	vectors := answer.Data
	if vectors == nil {
		vectors = answer.Response
	}
	row, _ := catalogue.Find(model)
	meta.estimate(row.TextNeurons(tokens(in.Texts...), 0))
	out := &Embedding{Vectors: vectors, Dimensions: row.Dimensions}
	if out.Dimensions == 0 && len(vectors) > 0 {
		out.Dimensions = len(vectors[0])
	}
	if len(vectors) != len(in.Texts) {
		return nil, meta, unusable(meta, "the vectors are not as many as the texts")
	}
	for _, v := range vectors {
		if len(v) != out.Dimensions {
			return nil, meta, unusable(meta, "a vector has another size than the model's")
		}
		for _, x := range v {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return nil, meta, unusable(meta, "a vector holds what is no number")
			}
		}
	}
	return out, meta, nil
}

// unusable is an answer of the right form with impossible content.
func unusable(m Meta, why string) *Error {
	return &Error{Status: 200, Message: why, RequestID: m.RequestID, Ray: m.Ray, broken: true}
}
