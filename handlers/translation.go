package handlers

import (
	"context"
	"fmt"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// translation sends one text, or joins the texts of other tasks in the same languages if
// the model takes lists.
func translation(ctx context.Context, c *engine.Call, p tasks.Translation) (*engine.Output, error) {
	send := func(ctx context.Context, texts []string) ([]string, workersai.Meta, error) {
		return c.AI.Translate(ctx, c.Model, workersai.TranslateInput{Texts: texts, Source: p.SourceLang, Target: p.TargetLang})
	}
	var texts []string
	var err error
	most, _ := tasks.MostNeurons(c.Model, p)
	if takesLists(c.Model) {
		texts, err = engine.Coalesce(ctx, c, p.SourceLang+">"+p.TargetLang, []string{p.Text}, most, send)
	} else {
		err = c.Send(ctx, most, func(ctx context.Context) (meta workersai.Meta, err error) {
			texts, meta, err = send(ctx, []string{p.Text})
			if err == nil && len(texts) != 1 {
				err = &engine.UnusableError{Err: fmt.Errorf("the model answered %d translations for one text", len(texts))}
			}
			return meta, err
		})
	}
	if err != nil {
		return nil, err
	}
	return &engine.Output{Result: tasks.TranslationOutput{TranslatedText: texts[0]}}, nil
}

// takesLists reports whether a model takes several texts in one call.
func takesLists(model string) bool {
	m, _ := catalogue.Find(model)
	return m.Texts > 1
}
