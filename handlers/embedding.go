package handlers

import (
	"context"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// embedding cuts the texts into what the model takes at once; each part rides with the
// texts of other tasks.
func (h *Handlers) embedding(ctx context.Context, j *job, p tasks.Embedding) (*output, error) {
	to := route{model: j.task.Model, kind: j.task.Kind, lane: j.task.Lane, options: p.Pooling}
	line := lineTo(h, &h.carpool.embeddings, to, func(ctx context.Context, texts []string) ([][]float32, workersai.Meta, error) {
		answer, meta, err := h.cfg.AI.Embed(ctx, to.model, workersai.EmbedInput{Texts: texts, Pooling: to.options})
		if err != nil {
			return nil, meta, err
		}
		return answer.Vectors, meta, nil
	})
	out := tasks.EmbeddingOutput{Vectors: make([][]float32, 0, len(p.Texts))}
	for _, texts := range parts(p.Texts, line.row) {
		vectors, err := line.ride(ctx, j, texts)
		if err != nil {
			return nil, err
		}
		out.Dimensions = len(vectors[0])
		out.Vectors = append(out.Vectors, vectors...)
	}
	return &output{result: out}, nil
}

// parts cuts texts by count and, where the model sums tokens over a call, by size.
func parts(texts []string, m catalogue.Model) [][]string {
	var calls [][]string
	from, size := 0, 0
	for i, t := range texts {
		n := tokensOf(t, m)
		if i > from && (i-from == max(m.Texts, 1) || m.CallTokens > 0 && size+n > m.CallTokens) {
			calls = append(calls, texts[from:i])
			from, size = i, 0
		}
		size += n
	}
	return append(calls, texts[from:])
}
