package openai

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

// translation reads the extension for texts: text or input, source_lang, target_lang. The
// model may be absent.
func (r *Request) translation(f *fields) {
	p := tasks.Translation{Text: f.text("text"), SourceLang: f.text("source_lang"), TargetLang: f.text("target_lang")}
	if p.Text == "" {
		p.Text = f.text("input")
	}
	if p.Text == "" {
		f.fail("text", "is missing")
	}
	if !f.has("model") {
		model, err := json.Marshal(catalogue.Default(string(tasks.KindTranslation)).ID)
		if err == nil {
			f.members["model"] = model
		}
	}
	r.characters = len(p.Text)
	r.Payload = p
}

func (r *Request) translationResponse(result *tasks.Result) ([]byte, Tokens, error) {
	out, err := tasks.OutputOf[tasks.TranslationOutput](result)
	if err != nil {
		return nil, Tokens{}, err
	}
	u := Tokens{Input: r.inputTokens(0), Output: (len(out.TranslatedText) + 3) / 4}
	text := quote(out.TranslatedText)
	return fmt.Appendf(nil, `{"object":"translation","model":%s,"translated_text":%s,"usage":{"input_tokens":%d,"output_tokens":%d,"total_tokens":%d}}`,
		quote(r.Model), text, u.Input, u.Output, u.Input+u.Output), u, nil
}
