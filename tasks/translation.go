package tasks

import (
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Translation turns Text into another language.
type Translation struct {
	Text       string `json:"text"`
	SourceLang string `json:"source_lang,omitempty" doc:"Code of the text's language; en when left out." placeholder:"CODE"`
	TargetLang string `json:"target_lang" doc:"Code of the language wanted." placeholder:"CODE"`
}

// TranslationLimit is the maximum length of a text, in bytes. The API publishes no limit.
// Longer texts translate better when split by paragraph.
const TranslationLimit = 100 << 10

// Kind implements Payload.
func (Translation) Kind() Kind { return KindTranslation }

// Validate implements Payload.
func (t Translation) Validate() error {
	p := textProblems(t)
	if blank(t.Text) {
		p.add("text", "is empty")
	}
	if len(t.Text) > TranslationLimit {
		p.add("text", "has %d bytes, more than %d: cut it by paragraph", len(t.Text), TranslationLimit)
	}
	switch {
	case t.TargetLang == "":
		p.add("target_lang", "is missing")
	case t.SourceLang == "" && strings.EqualFold(t.TargetLang, "en"):
		p = append(p, Problem{"target_lang", "is the language of the text: that is en unless source_lang says otherwise", CodeSameLanguage})
	case strings.EqualFold(t.SourceLang, t.TargetLang):
		p = append(p, Problem{"target_lang", "is the same language as source_lang", CodeSameLanguage})
	}
	return p.err()
}

func (t Translation) checkModel(m catalogue.Model) ValidationError {
	var p ValidationError
	known := m.Languages()
	if t.TargetLang != "" && len(known) > 0 && languageOf(t.TargetLang, known) == "" {
		p.add("target_lang", "%s does not translate into %s; it knows %s", m.ID, quote(t.TargetLang), strings.Join(known, " "))
	}
	switch {
	case t.SourceLang == "":
	case m.Answer == catalogue.Translations && !strings.EqualFold(t.SourceLang, "en"):
		p.add("source_lang", "%s translates from en only", m.ID)
	case m.Answer == catalogue.Translated && languageOf(t.SourceLang, known) == "":
		p.add("source_lang", "%s does not know %s", m.ID, quote(t.SourceLang))
	}
	return p
}

// folded returns the payload with the language codes in the model's own spelling.
func (t Translation) folded(m catalogue.Model) Payload {
	if l := languageOf(t.TargetLang, m.Languages()); l != "" {
		t.TargetLang = l
	}
	if l := languageOf(t.SourceLang, m.Languages()); l != "" {
		t.SourceLang = l
	}
	return t
}

// languageOf finds a language code among the known ones, ignoring case.
func languageOf(code string, known []string) string {
	i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, code) })
	if i < 0 {
		return ""
	}
	return known[i]
}
