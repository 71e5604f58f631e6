package handlers

import (
	"context"
	"fmt"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

func (h *Handlers) translation(ctx context.Context, j *job, p tasks.Translation) (*output, error) {
	var texts []string
	err := j.call(ctx, func(ctx context.Context) (workersai.Meta, error) {
		var (
			meta workersai.Meta
			err  error
		)
		texts, meta, err = h.cfg.AI.Translate(ctx, j.task.Model, workersai.TranslateInput{
			Texts: []string{p.Text}, Source: p.SourceLang, Target: p.TargetLang,
		})
		return meta, err
	})
	if err != nil {
		return nil, err
	}
	if len(texts) != 1 {
		return nil, fmt.Errorf("the model answered %d translations for one text", len(texts))
	}
	return &output{result: tasks.TranslationOutput{TranslatedText: texts[0]}}, nil
}
