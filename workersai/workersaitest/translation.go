package workersaitest

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

func translate(row catalogue.Model, body []byte) answer {
	var in struct {
		Text           texts  `json:"text"`
		Source         string `json:"source_lang"`
		Target         string `json:"target_lang"`
		TargetLanguage string `json:"target_language"`
	}
	if why := fieldsIn(body, &in); why != "" {
		return failed(5006, why)
	}
	many := row.Answer == catalogue.Translations
	target := in.Target
	if many {
		target = in.TargetLanguage
	}
	if len(in.Text) == 0 || slices.Contains(in.Text, "") {
		return failed(5006, "Error: Length of '/text' must be >= 1")
	}
	if !many && json.Valid(body) && len(in.Text) != 1 {
		return failed(5006, "Error: Type mismatch of '/text', 'array' not in 'string'")
	}
	if !slices.Contains(row.Languages(), target) || in.Source != "" && !slices.Contains(row.Languages(), in.Source) {
		return failed(5006, "Error: language not supported")
	}
	out, sum := make([]string, len(in.Text)), 0
	for i, t := range in.Text {
		out[i] = inLanguage(t, target)
		sum += tokens(t)
	}
	neurons := row.TextNeurons(sum, sum)
	if many {
		return result(map[string]any{"translations": out}, neurons)
	}
	return result(map[string]any{"translated_text": out[0]}, neurons)
}

// dictionary is small, but makes the answer differ from the input.
var dictionary = map[string]map[string]string{
	"es": {"hello": "hola", "world": "mundo", "good": "buenos", "morning": "días", "the": "el", "and": "y", "mill": "molino", "river": "río", "thanks": "gracias", "day": "día"},
	"fr": {"hello": "bonjour", "world": "monde", "good": "bon", "morning": "matin", "the": "le", "and": "et", "mill": "moulin", "river": "fleuve", "thanks": "merci", "day": "jour"},
	"de": {"hello": "hallo", "world": "Welt", "good": "guten", "morning": "Morgen", "the": "die", "and": "und", "mill": "Mühle", "river": "Fluss", "thanks": "danke", "day": "Tag"},
}

// inLanguage translates the words in the dictionary, and marks the text with the
// language.
func inLanguage(text, target string) string {
	words := strings.Fields(text)
	for i, w := range words {
		bare := strings.TrimRight(w, ".,;:!?")
		if known, ok := dictionary[target][strings.ToLower(bare)]; ok {
			words[i] = known + w[len(bare):]
		}
	}
	return "[" + target + "] " + strings.Join(words, " ")
}
