package handlers

import (
	"bytes"
	"context"

	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

var imageExtensions = map[string]string{"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}

// image sends one prompt and returns the picture as an artefact.
func image(ctx context.Context, c *engine.Call, p tasks.Image) (*engine.Output, error) {
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
	most, _ := tasks.MostNeurons(c.Model, p)
	err := c.Send(ctx, most, func(ctx context.Context) (workersai.Meta, error) {
		var (
			meta workersai.Meta
			err  error
		)
		picture, meta, err = c.AI.Image(ctx, c.Model, in)
		return meta, err
	})
	if err != nil {
		return nil, err
	}
	name := "image." + imageExtensions[picture.ContentType]
	return &engine.Output{
		Result: tasks.ImageOutput{
			Image: c.Key(name), ContentType: picture.ContentType,
			Width: picture.Width, Height: picture.Height,
		},
		Files: []engine.File{{Name: name, ContentType: picture.ContentType, Body: bytes.NewReader(picture.Data)}},
	}, nil
}
