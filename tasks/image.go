package tasks

import (
	"unicode/utf8"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Image generates a picture. Fields that are not set take the model's defaults. A field
// that the model does not support is refused.
type Image struct {
	Prompt         string   `json:"prompt"`
	NegativePrompt string   `json:"negative_prompt,omitempty" doc:"What should not be seen."`
	Width          int      `json:"width,omitempty" doc:"Pixels."`
	Height         int      `json:"height,omitempty" doc:"Pixels."`
	Steps          *int     `json:"steps,omitempty" doc:"More is finer, slower and dearer."`
	Guidance       *float64 `json:"guidance,omitempty" doc:"How closely to follow the prompt."`
	Seed           *int64   `json:"seed,omitempty" doc:"The same seed gives the same picture."`
}

// Kind implements Payload.
func (Image) Kind() Kind { return KindImage }

// Validate implements Payload.
func (i Image) Validate() error {
	p := textProblems(i)
	if blank(i.Prompt) {
		p.add("prompt", "is empty")
	}
	if i.Seed != nil && *i.Seed < 0 {
		p.add("seed", "%d is negative", *i.Seed)
	}
	return p.err()
}

func (i Image) checkModel(m catalogue.Model) ValidationError {
	var p ValidationError
	if n := utf8.RuneCountInString(i.Prompt); m.Prompt > 0 && n > m.Prompt {
		p.add("prompt", "has %d characters, %s takes %d", n, m.ID, m.Prompt)
	}
	whole := func(n *int) *float64 {
		if n == nil {
			return nil
		}
		f := float64(*n)
		return &f
	}
	side := func(n int) *float64 {
		if n == 0 {
			return nil
		}
		return whole(&n)
	}
	bounded(&p, m, "width", side(i.Width), m.Width)
	bounded(&p, m, "height", side(i.Height), m.Height)
	bounded(&p, m, "steps", whole(i.Steps), m.Steps)
	bounded(&p, m, "guidance", i.Guidance, m.Guidance)
	if i.NegativePrompt != "" && !m.Negative {
		p.add("negative_prompt", "%s does not take it", m.ID)
	}
	if i.Seed != nil && !m.Seed {
		p.add("seed", "%s does not take it", m.ID)
	}
	return p
}

func bounded(p *ValidationError, m catalogue.Model, field string, n *float64, b catalogue.Bound) {
	if n != nil && b.Max == 0 {
		p.add(field, "%s does not take it", m.ID)
		return
	}
	between(p, field, n, b.Min, b.Max)
}
