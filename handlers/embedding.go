package handlers

import (
	"context"
	"encoding/json"
	"fmt"

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
	all := parts(p.Texts, line.row)
	for i, texts := range all {
		ask := func() ([][]float32, error) { return line.ride(ctx, j, texts) }
		if len(all) > 1 {
			ask = func() ([][]float32, error) { return h.onePart(ctx, j, line, i, texts) }
		}
		vectors, err := ask()
		if err != nil {
			return nil, err
		}
		out.Dimensions = len(vectors[0])
		out.Vectors = append(out.Vectors, vectors...)
	}
	return &output{result: out}, nil
}

// onePart is the answer to one of several parts, paid for once: the next one begins when
// it is stored.
func (h *Handlers) onePart(ctx context.Context, j *job, line *line[[]float32], i int, texts []string) ([][]float32, error) {
	var vectors [][]float32
	stored, err := h.storedAnswer(ctx, j, i)
	if err != nil {
		return nil, err
	}
	if stored != nil && json.Unmarshal(stored.Output, &vectors) == nil && len(vectors) == len(texts) {
		return vectors, nil
	}
	before := j.neurons
	if vectors, err = line.ride(ctx, j, texts); err != nil {
		return nil, err
	}
	body, err := json.Marshal(vectors)
	if err != nil {
		return nil, fmt.Errorf("encode the vectors: %w", err)
	}
	storing, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := h.storeAnswer(storing, j, i, answer{Neurons: j.neurons - before, Output: body}); err != nil {
		return nil, err
	}
	return vectors, nil
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
