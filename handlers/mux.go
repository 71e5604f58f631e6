package handlers

import (
	"context"
	"fmt"

	"github.com/neuronmill/neuronmill/tasks"
)

// mux finds the work of a kind. A new kind adds its line here.
func (h *Handlers) work(ctx context.Context, j *job, p tasks.Payload) (*output, error) {
	switch p := p.(type) {
	case tasks.Transcription:
		return h.transcription(ctx, j, p)
	case tasks.Image:
		return h.image(ctx, j, p)
	case tasks.Translation:
		return h.translation(ctx, j, p)
	case tasks.Embedding:
		return h.embedding(ctx, j, p)
	case tasks.Text:
		return h.text(ctx, j, p)
	}
	return nil, fmt.Errorf("no handler for kind %s", p.Kind())
}
