package workersai

import (
	"context"
	"encoding/json"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// TranslateInput is the input of a translation model. Several texts are allowed if the
// model's catalogue row says so, otherwise exactly one.
type TranslateInput struct {
	Texts  []string
	Source string // empty means the model's default, English
	Target string // in the model's own codes
}

// Translate returns one translation per text, in the same order.
func (c *Client) Translate(ctx context.Context, model string, in TranslateInput) ([]string, Meta, error) {
	row, _ := catalogue.Find(model)
	var result struct {
		Text  json.RawMessage `json:"translated_text"`
		Texts json.RawMessage `json:"translations"`
	}
	answer, err := c.ask(ctx, model, translateBody(row, in), &result)
	meta := answer.meta()
	if err != nil {
		return nil, meta, err
	}
	found := list(result.Texts)
	if len(found) == 0 {
		found = []json.RawMessage{result.Text}
	}
	if len(found) != len(in.Texts) {
		return nil, meta, answer.unusable("the translations are not as many as the texts")
	}
	out := make([]string, len(found))
	for i, raw := range found {
		if out[i] = stringIn(raw); out[i] == "" && in.Texts[i] != "" {
			return nil, meta, answer.unusable("a translation is empty")
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
