package batch

import (
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

// DollarsPerNeuron is the list price beyond the free allocation of a day.
const DollarsPerNeuron = 0.011 / 1000

// answerTokens is the assumed length of a generated text whose line does not bound it.
const answerTokens = 256

// estimate returns the list price of a line in neurons; ok is false when it cannot be
// known before the call. It counts tokens by characters, so that it may be wrong by 40 %.
func estimate(l *Line) (neurons float64, ok bool) {
	m, known := catalogue.Find(l.Model)
	if !known {
		return 0, false
	}
	switch p := l.Payload.(type) {
	case tasks.Embedding:
		n := 0
		for _, text := range p.Texts {
			n += likelyTokens(text)
		}
		return m.TextNeurons(n, 0), true
	case tasks.Translation:
		n := likelyTokens(p.Text)
		return m.TextNeurons(n, n), true
	case tasks.Text:
		answer := answerTokens
		if p.MaxTokens != nil {
			answer = min(answer, *p.MaxTokens)
		}
		return m.TextNeurons(likelyTokens(string(l.Input)), answer), true
	case tasks.Image:
		steps := 0
		if p.Steps != nil {
			steps = *p.Steps
		}
		return m.ImageNeurons(p.Width, p.Height, steps), true
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

// Estimate returns the list price of a task in neurons, as the plan of a batch does; ok is
// false when it cannot be known before the call. input is the JSON of the payload.
func Estimate(model string, p tasks.Payload, input []byte) (neurons float64, ok bool) {
	return estimate(&Line{Model: model, Payload: p, Input: input})
}
