package handlers

import (
	"context"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

func (h *Handlers) text(ctx context.Context, j *job, p tasks.Text) (*output, error) {
	var answer *workersai.Generation
	err := j.call(ctx, func(ctx context.Context) (workersai.Meta, error) {
		var (
			meta workersai.Meta
			err  error
		)
		answer, meta, err = h.cfg.AI.Generate(ctx, j.task.Model, p.Body())
		return meta, err
	})
	if err != nil {
		return nil, err
	}
	out := tasks.TextOutput{Text: answer.Text, Reasoning: answer.Reasoning, FinishReason: answer.FinishReason}
	for _, c := range answer.ToolCalls {
		out.ToolCalls = append(out.ToolCalls, tasks.ToolCall(c))
	}
	return &output{result: out}, nil
}
