package tasks

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// answerTokens is the assumed length of a generated text that max_tokens does not bound. It is
// also the bound that the API itself has for models with its native answers.
const answerTokens = 256

// Estimate returns the likely list price of a payload in neurons; ok is false when it cannot
// be known before the call. input is the payload as JSON. Tokens are counted by characters,
// so that it may be wrong by 40 %.
func Estimate(model string, p Payload, input []byte) (neurons float64, ok bool) {
	m, known := catalogue.Find(model)
	if !known {
		return 0, false
	}
	switch p := p.(type) {
	case Embedding:
		n := 0
		for _, text := range p.Texts {
			n += likelyTokens(text)
		}
		return m.TextNeurons(n, 0), true
	case Translation:
		n := likelyTokens(p.Text)
		return m.TextNeurons(n, n), true
	case Text:
		answer := answerTokens
		if p.MaxTokens != nil {
			answer = min(answer, *p.MaxTokens)
		}
		return m.TextNeurons(likelyTokens(string(input)), answer), true
	case Image:
		return p.neurons(m), true
	}
	return 0, false
}

// likelyTokens estimates the tokens of a text: one for four bytes of Latin script, one
// for each character of a script that takes three bytes a character.
func likelyTokens(text string) int {
	characters := utf8.RuneCountInString(text)
	others := (len(text) - characters) / 2 // close to the number of characters of three bytes
	return (characters-min(others, characters))/4 + others + 2
}

// The assumptions of MostNeurons.
const (
	specialTokens  = 3    // of a model, around a text
	templateTokens = 200  // of a model, around a conversation
	audioBytes     = 1000 // of a second of speech: 8 kbit/s, less than common encoders use
)

// MostNeurons returns the highest list price of one call with a payload, rounded as the API
// rounds; ok is false when there is no such bound. A text has at most a token for each byte.
// Models without a published price count as free.
func MostNeurons(model string, p Payload) (neurons float64, ok bool) {
	m, known := catalogue.Find(model)
	if !known {
		return 0, false
	}
	switch p := p.(type) {
	case Embedding:
		n := 0
		for _, text := range p.Texts {
			n += mostTokens(m, text)
		}
		return roundUp(m.TextNeurons(n, 0)), true
	case Translation:
		n := mostTokens(m, p.Text)
		return roundUp(m.TextNeurons(n, n)), true
	case Text:
		in, out := p.mostTokens(m)
		return roundUp(m.TextNeurons(in, out)), out > 0 || m.Price == (catalogue.Price{})
	case Image:
		return roundUp(p.neurons(m)), true
	}
	return 0, m.Price == (catalogue.Price{})
}

// MostAudioNeurons returns the highest list price of a recording of a size in bytes; ok is
// false when the model is not known.
func MostAudioNeurons(model string, size int64) (neurons float64, ok bool) {
	m, known := catalogue.Find(model)
	return roundUp(m.AudioNeurons(float64(size)/audioBytes + 1)), known
}

// roundUp rounds a price up to the four digits that the API states.
func roundUp(neurons float64) float64 { return math.Ceil(neurons*1e4) / 1e4 }

func mostTokens(m catalogue.Model, text string) int {
	n := len(text) + specialTokens
	if m.TextTokens > 0 {
		n = min(n, m.TextTokens)
	}
	return n
}

// mostTokens returns the most tokens that a model reads and writes; out is 0 when it is not
// bounded.
func (t Text) mostTokens(m catalogue.Model) (in, out int) {
	body, err := json.Marshal(t)
	in, out = len(body)+templateTokens, m.Context
	switch {
	case t.MaxTokens != nil:
		out = *t.MaxTokens
	case m.Answer == catalogue.Native:
		out = answerTokens
	}
	if err != nil || strings.Contains(string(body), `"image_url"`) { // a URL says nothing of the tokens of its picture
		in = max(in, m.Context)
	}
	if m.Context > 0 {
		in, out = min(in, m.Context), min(out, m.Context)
	}
	return in, out
}

func (i Image) neurons(m catalogue.Model) float64 {
	steps := 0
	if i.Steps != nil {
		steps = *i.Steps
	}
	return m.ImageNeurons(i.Width, i.Height, steps)
}

// checkBudget finds out whether a task can run within its MaxNeurons.
func checkBudget(p Payload, model string, most float64) ValidationError {
	var wrong ValidationError
	m, known := catalogue.Find(model)
	if !known {
		wrong.add("max_neurons", "cannot be kept: the price of %s is not known", model)
		return wrong
	}
	neurons, bounded := MostNeurons(model, p)
	switch p := p.(type) {
	case Text:
		if !bounded {
			wrong.add("max_neurons", "cannot be kept: %s has no bound of its own, give max_tokens", model)
			return wrong
		}
	case Embedding:
		if len(p.Texts) > max(m.Texts, 1) || m.CallTokens > 0 { // several calls, so only a fault if even the likely price is too high
			neurons, _ = Estimate(model, p, nil)
		}
	}
	if neurons > most {
		message := "is " + number(most) + ", and the task may cost " + number(neurons)
		if t, ok := p.(Text); ok && t.MaxTokens == nil {
			message += "; max_tokens makes it less"
		}
		wrong = append(wrong, Problem{"max_neurons", message, CodeBudgetExceeded})
	}
	return wrong
}

// number formats neurons for people.
func number(neurons float64) string {
	return strconv.FormatFloat(roundUp(neurons), 'f', -1, 64)
}
