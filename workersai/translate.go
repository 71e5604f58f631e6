package workersai

import (
	"context"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// TranslateInput is what a translation model takes. Several texts go to models whose
// catalogue row says so, else exactly one.
type TranslateInput struct {
	Texts  []string
	Source string // the model's default, English, when empty
	Target string // in the model's own codes
}

// Translate gives one translation a text, in their order.
func (c *Client) Translate(ctx context.Context, model string, in TranslateInput) ([]string, Meta, error) {
	row, _ := catalogue.Find(model)
	var answer struct {
		TranslatedText string   `json:"translated_text"`
		Translations   []string `json:"translations"`
	}
	meta, err := c.ask(ctx, model, translateBody(row, in), &answer)
	if err != nil {
		return nil, meta, err
	}
	out := answer.Translations
	if row.Answer != catalogue.Translations {
		out = []string{answer.TranslatedText}
	}
	if len(out) != len(in.Texts) {
		return nil, meta, unusable(meta, "the translations are not as many as the texts")
	}
	for i, t := range out {
		if t == "" && in.Texts[i] != "" {
			return nil, meta, unusable(meta, "a translation is empty")
		}
	}
	meta.estimate(row.TextNeurons(tokens(in.Texts...), tokens(out...)))
	return out, meta, nil
}

func translateBody(row catalogue.Model, in TranslateInput) map[string]any {
	if row.Answer == catalogue.Translations {
		return map[string]any{"text": in.Texts, "target_language": in.Target}
	}
	body := map[string]any{"text": in.Texts[0], "target_lang": in.Target}
	if in.Source != "" {
		body["source_lang"] = in.Source
	}
	return body
}
