package handlers

import (
	"context"
	"fmt"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// translation rides with other texts of the same languages where the model takes lists.
func (h *Handlers) translation(ctx context.Context, j *job, p tasks.Translation) (*output, error) {
	send := func(ctx context.Context, texts []string) ([]string, workersai.Meta, error) {
		return h.cfg.AI.Translate(ctx, j.task.Model, workersai.TranslateInput{Texts: texts, Source: p.SourceLang, Target: p.TargetLang})
	}
	var texts []string
	var err error
	if row, _ := catalogue.Find(j.task.Model); row.Texts > 1 {
		to := route{model: j.task.Model, kind: j.task.Kind, lane: j.task.Lane, options: p.SourceLang + ">" + p.TargetLang}
		texts, err = lineTo(h, &h.carpool.translations, to, send).ride(ctx, j, []string{p.Text})
	} else {
		err = j.call(ctx, func(ctx context.Context) (meta workersai.Meta, err error) {
			texts, meta, err = send(ctx, []string{p.Text})
			return meta, err
		})
	}
	if err != nil {
		return nil, err
	}
	if len(texts) != 1 {
		return nil, fmt.Errorf("the model answered %d translations for one text", len(texts))
	}
	return &output{result: tasks.TranslationOutput{TranslatedText: texts[0]}}, nil
}
