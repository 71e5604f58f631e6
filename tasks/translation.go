package tasks

import (
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Translation turns Text into another language.
type Translation struct {
	Text       string `json:"text"`
	SourceLang string `json:"source_lang,omitempty"` // English when empty
	TargetLang string `json:"target_lang"`
}

// TranslationLimit is the longest text of one task, in bytes. The API publishes no
// figure; longer texts are better cut by paragraph anyway.
const TranslationLimit = 100 << 10

// Kind implements Payload.
func (Translation) Kind() Kind { return KindTranslation }

// Validate implements Payload.
func (t Translation) Validate() error {
	var p Problems
	if blank(t.Text) {
		p.add("text", "is empty")
	}
	if len(t.Text) > TranslationLimit {
		p.add("text", "has %d bytes, more than %d: cut it by paragraph", len(t.Text), TranslationLimit)
	}
	if t.TargetLang == "" {
		p.add("target_lang", "is missing")
	}
	return p.err()
}

func (t Translation) checkModel(m catalogue.Model) Problems {
	var p Problems
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

// folded writes the languages as the model wants them.
func (t Translation) folded(m catalogue.Model) Payload {
	if l := languageOf(t.TargetLang, m.Languages()); l != "" {
		t.TargetLang = l
	}
	if l := languageOf(t.SourceLang, m.Languages()); l != "" {
		t.SourceLang = l
	}
	return t
}

// languageOf finds a code among those known, whatever its case.
func languageOf(code string, known []string) string {
	i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, code) })
	if i < 0 {
		return ""
	}
	return known[i]
}
