package workersai

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	_ "image/jpeg" // decodes the sizes of pictures
	_ "image/png"
	"mime/multipart"
	"strconv"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// ImageInput describes a picture to generate. Zero values mean the model's defaults.
type ImageInput struct {
	Prompt         string
	NegativePrompt string
	Width, Height  int // pixels
	Steps          int
	Guidance       float64
	Seed           *int64
}

// Image is a picture. Width and Height are 0 if the format does not state them.
type Image struct {
	Data          []byte
	ContentType   string // by its first bytes: image/png, image/jpeg or image/webp
	Width, Height int
}

// Image generates a picture. The form of the request depends on the model.
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
	answer, err := c.post(ctx, r)
	if err != nil {
		return nil, answer.meta(), err
	}
	defer answer.close()
	body, err := answer.readBody()
	if err != nil {
		return nil, answer.meta(), err
	}
	picture, err := answer.picture(body)
	meta := answer.meta()
	if err != nil {
		return nil, meta, err
	}
	meta.estimate(row.ImageNeurons(picture.Width, picture.Height, in.Steps))
	return picture, meta, nil
}

// imageFields returns the fields that a model supports. Some models refuse all others.
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
			return request{}, unsendable(err)
		}
	}
	if err := form.Close(); err != nil {
		return request{}, unsendable(err)
	}
	return request{model: model, body: &body, size: int64(body.Len()), contentType: form.FormDataContentType()}, nil
}

// picture reads the picture in an answer: raw, or as base64 in JSON. Raw bytes that are
// not a complete picture were truncated in transit. In complete JSON, the model produced
// the incomplete picture.
func (r reply) picture(body []byte) (*Image, error) {
	if sniffImage(body) != "" {
		picture, why := openPicture(body)
		if why != "" {
			return nil, r.damaged(why)
		}
		return picture, nil
	}
	const longestMagic = 12 // bytes that identify a format
	if strings.HasPrefix(r.mediaType(), "image/") && len(body) >= longestMagic {
		return nil, r.unusable("the picture's format is not known: " + r.clean(r.mediaType(), 60))
	}
	result, err := r.open(body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Image json.RawMessage `json:"image"`
	}
	_ = json.Unmarshal(result, &answer)
	encoded := stringIn(answer.Image)
	if strings.HasPrefix(encoded, "data:") {
		_, encoded, _ = strings.Cut(encoded, ",")
	}
	data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "=\r\n "))
	if err != nil {
		return nil, r.unusable("the picture is not base64")
	}
	picture, why := openPicture(data)
	if why != "" {
		return nil, r.unusable(why)
	}
	return picture, nil
}

// openPicture reads a picture's format and size. If the picture is unusable, why has the
// reason.
func openPicture(data []byte) (picture *Image, why string) {
	picture = &Image{Data: data, ContentType: sniffImage(data)}
	if picture.ContentType == "" {
		return nil, "the answer is no picture"
	}
	config, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err == nil {
		picture.Width, picture.Height = config.Width, config.Height
	} else if picture.ContentType != "image/webp" {
		return nil, "the picture is damaged"
	}
	if !wholeImage(picture.ContentType, data) {
		return nil, "the picture is not whole"
	}
	return picture, ""
}
