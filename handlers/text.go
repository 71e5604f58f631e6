package handlers

import (
	"context"

	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// text sends one prompt or chat.
func text(ctx context.Context, c *engine.Call, p tasks.Text) (*engine.Output, error) {
	var answer *workersai.Generation
	most, _ := tasks.MostNeurons(c.Model, p)
	err := c.Send(ctx, most, func(ctx context.Context) (workersai.Meta, error) {
		var (
			meta workersai.Meta
			err  error
		)
		answer, meta, err = c.AI.GenerateStream(ctx, c.Model, p.Body(), c.Text)
		return meta, err
	})
	if err != nil {
		return nil, err
	}
	out := tasks.TextOutput{
		Text: answer.Text, Reasoning: answer.Reasoning, Refusal: answer.Refusal, FinishReason: answer.FinishReason,
		InputTokens: answer.InputTokens, OutputTokens: answer.OutputTokens,
	}
	for _, call := range answer.ToolCalls {
		out.ToolCalls = append(out.ToolCalls, tasks.ToolCall(call))
	}
	return &engine.Output{Result: out}, nil
}
