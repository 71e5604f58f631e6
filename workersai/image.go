package workersai

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	_ "image/jpeg" // for the sizes of pictures
	_ "image/png"
	"mime/multipart"
	"net/http"
	"strconv"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// ImageInput is a picture to be. Zero values are left to the model.
type ImageInput struct {
	Prompt         string
	NegativePrompt string
	Width, Height  int // pixels
	Steps          int
	Guidance       float64
	Seed           *int64
}

// Image is a picture; Width and Height are 0 when its format does not tell.
type Image struct {
	Data          []byte
	ContentType   string // by its first bytes: image/png, image/jpeg or image/webp
	Width, Height int
}

// Image draws a picture. What is sent and how depends on the model.
func (c *Client) Image(ctx context.Context, model string, in ImageInput) (*Image, Meta, error) {
	row, _ := catalogue.Find(model)
	fields := imageFields(row, in)
	r, err := jsonRequest(model, fields)
	if row.Transport == catalogue.Multipart {
		r, err = formRequest(model, fields)
	}
	if err != nil {
		return nil, Meta{}, err
	}
	start := time.Now()
	resp, err := c.post(ctx, r)
	if err != nil {
		return nil, Meta{Took: time.Since(start)}, err
	}
	defer resp.Body.Close()
	body, err := readBody(resp)
	meta := metaOf(resp, start)
	if err != nil {
		return nil, meta, err
	}
	picture, err := openImage(resp, body)
	if err != nil {
		return nil, meta, err
	}
	meta.estimate(row.ImageNeurons(picture.Width, picture.Height, in.Steps))
	return picture, meta, nil
}

// imageFields are the fields a model takes: some refuse what they do not know.
func imageFields(row catalogue.Model, in ImageInput) map[string]any {
	fields := map[string]any{"prompt": in.Prompt}
	if in.Width > 0 && row.Width.Max > 0 {
		fields["width"] = in.Width
	}
	if in.Height > 0 && row.Height.Max > 0 {
		fields["height"] = in.Height
	}
	if in.Steps > 0 && row.StepsField != "" {
		fields[row.StepsField] = in.Steps
	}
	if in.Guidance > 0 && row.Guidance.Max > 0 {
		fields["guidance"] = in.Guidance
	}
	if in.Seed != nil && row.Seed {
		fields["seed"] = *in.Seed
	}
	if in.NegativePrompt != "" && row.Negative {
		fields["negative_prompt"] = in.NegativePrompt
	}
	return fields
}

func formRequest(model string, fields map[string]any) (request, error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for name, value := range fields {
		text := fmt.Sprint(value)
		if f, ok := value.(float64); ok {
			text = strconv.FormatFloat(f, 'f', -1, 64)
		}
		if err := form.WriteField(name, text); err != nil {
			return request{}, fmt.Errorf("encode the request: %w", err)
		}
	}
	if err := form.Close(); err != nil {
		return request{}, fmt.Errorf("encode the request: %w", err)
	}
	return request{model: model, body: &body, size: int64(body.Len()), contentType: form.FormDataContentType()}, nil
}

// openImage finds the picture in an answer, raw or as base64 in JSON.
func openImage(resp *http.Response, body []byte) (*Image, error) {
	data := body
	if sniffImage(body) == "" {
		result, err := openEnvelope(resp, body)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Image string `json:"image"`
		}
		if err := json.Unmarshal(result, &answer); err != nil {
			return nil, badAnswer(resp, "the result has another shape than the model's")
		}
		if data, err = base64.StdEncoding.DecodeString(answer.Image); err != nil {
			return nil, badAnswer(resp, "the picture is not base64")
		}
	}
	picture := &Image{Data: data, ContentType: sniffImage(data)}
	if picture.ContentType == "" {
		return nil, badAnswer(resp, "the answer is no picture")
	}
	config, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err == nil {
		picture.Width, picture.Height = config.Width, config.Height
	} else if picture.ContentType != "image/webp" {
		return nil, badAnswer(resp, "the picture is damaged")
	}
	if !wholeImage(picture.ContentType, data) {
		return nil, badAnswer(resp, "the picture is not whole")
	}
	return picture, nil
}
