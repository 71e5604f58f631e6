package handlers

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// vectors is a tasks.EmbeddingOutput whose numbers stay as the API wrote them: decoding and
// encoding them costs more than everything else of a task.
type vectors struct {
	Dimensions int               `json:"dimensions"`
	Vectors    []json.RawMessage `json:"vectors"`
}

// embedding splits the texts into parts that fit into one call of the model. Each part
// shares its call with texts of other tasks.
func embedding(ctx context.Context, c *engine.Call, p tasks.Embedding) (*engine.Output, error) {
	send := func(ctx context.Context, texts []string) ([]json.RawMessage, workersai.Meta, error) {
		answer, meta, err := c.AI.Embed(ctx, c.Model, workersai.EmbedInput{Texts: texts, Pooling: p.Pooling})
		if err != nil {
			return nil, meta, err
		}
		return answer.Vectors, meta, nil
	}
	model, _ := catalogue.Find(c.Model)
	out := vectors{Vectors: make([]json.RawMessage, 0, len(p.Texts))}
	all := parts(p.Texts, model)
	for i, texts := range all {
		most, _ := tasks.MostNeurons(c.Model, tasks.Embedding{Texts: texts})
		ask := func() ([]json.RawMessage, error) { return engine.Coalesce(ctx, c, p.Pooling, texts, most, send) }
		once := ask
		if len(all) > 1 {
			complete := func(found []json.RawMessage) bool { return len(found) == len(texts) }
			once = func() ([]json.RawMessage, error) { return engine.Part(ctx, c, i, complete, ask) }
		}
		found, err := once()
		if err != nil {
			return nil, err
		}
		out.Dimensions = bytes.Count(found[0], []byte(",")) + 1
		out.Vectors = append(out.Vectors, found...)
	}
	return &engine.Output{Result: out}, nil
}

// parts splits texts by count and, if the model limits the tokens of a call, by size.
func parts(texts []string, m catalogue.Model) [][]string {
	var calls [][]string
	from, size := 0, 0
	for i, t := range texts {
		n := m.EstimateTokens(t)
		if i > from && (i-from == max(m.Texts, 1) || m.CallTokens > 0 && size+n > m.CallTokens) {
			calls = append(calls, texts[from:i])
			from, size = i, 0
		}
		size += n
	}
	return append(calls, texts[from:])
}
