package handlers

import (
	"bytes"
	"context"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

var imageExtensions = map[string]string{"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}

func (h *Handlers) image(ctx context.Context, j *job, p tasks.Image) (*output, error) {
	in := workersai.ImageInput{
		Prompt: p.Prompt, NegativePrompt: p.NegativePrompt,
		Width: p.Width, Height: p.Height, Seed: p.Seed,
	}
	if p.Steps != nil {
		in.Steps = *p.Steps
	}
	if p.Guidance != nil {
		in.Guidance = *p.Guidance
	}
	var picture *workersai.Image
	err := j.call(ctx, func(ctx context.Context) (workersai.Meta, error) {
		var (
			meta workersai.Meta
			err  error
		)
		picture, meta, err = h.cfg.AI.Image(ctx, j.task.Model, in)
		return meta, err
	})
	if err != nil {
		return nil, err
	}
	name := "image." + imageExtensions[picture.ContentType]
	return &output{
		result: tasks.ImageOutput{
			Image: j.key(name), ContentType: picture.ContentType,
			Width: picture.Width, Height: picture.Height,
		},
		files: []file{{name: name, contentType: picture.ContentType, body: bytes.NewReader(picture.Data)}},
	}, nil
}
