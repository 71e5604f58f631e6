package handlers

import (
	"context"
	"slices"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// embedding cuts the texts into calls of what the model takes at once.
func (h *Handlers) embedding(ctx context.Context, j *job, p tasks.Embedding) (*output, error) {
	model, _ := catalogue.Find(j.task.Model)
	out := tasks.EmbeddingOutput{Vectors: make([][]float32, 0, len(p.Texts))}
	for _, texts := range embeddingCalls(p.Texts, model) {
		err := j.call(ctx, func(ctx context.Context) (workersai.Meta, error) {
			answer, meta, err := h.cfg.AI.Embed(ctx, j.task.Model, workersai.EmbedInput{Texts: texts, Pooling: p.Pooling})
			if err != nil {
				return meta, err
			}
			out.Dimensions = answer.Dimensions
			out.Vectors = append(out.Vectors, answer.Vectors...)
			return meta, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return &output{result: out}, nil
}

// embeddingCalls cuts texts by count and, where the model sums tokens over a call,
// by an estimate that is on the safe side: no tokenizer makes more tokens than bytes,
// and few less than one in three.
func embeddingCalls(texts []string, m catalogue.Model) [][]string {
	most := max(m.Texts, 1)
	if m.CallTokens == 0 {
		return slices.Collect(slices.Chunk(texts, most))
	}
	var calls [][]string
	from, tokens := 0, 0
	for i, t := range texts {
		n := min(len(t)/3+2, max(m.TextTokens, 1))
		if i > from && (i-from == most || tokens+n > m.CallTokens) {
			calls = append(calls, texts[from:i])
			from, tokens = i, 0
		}
		tokens += n
	}
	return append(calls, texts[from:])
}
