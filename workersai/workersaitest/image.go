package workersaitest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// wish describes a requested picture.
type wish struct {
	Prompt   string   `json:"prompt"`
	Width    int      `json:"width"`
	Height   int      `json:"height"`
	Steps    int      `json:"steps"`
	NumSteps int      `json:"num_steps"`
	Guidance *float64 `json:"guidance"`
	Seed     int64    `json:"seed"`
}

func draw(row catalogue.Model, contentType string, body []byte) answer {
	mediaType, parameters, _ := mime.ParseMediaType(contentType)
	isForm := mediaType == "multipart/form-data"
	if isForm != (row.Transport == catalogue.Multipart) {
		return failed(5006, "Error: required properties at '/' are 'multipart' or JSON, as the model takes")
	}
	if isForm {
		var err error
		if body, err = formAsJSON(body, parameters["boundary"]); err != nil {
			return failed(5006, "Error: the form cannot be read")
		}
	}
	var w wish
	if why := fieldsIn(body, &w); why != "" {
		return failed(5006, why)
	}
	if row.Prompt > 0 { // the only model that refuses unknown fields
		if why := unknownField(body, "prompt", "steps"); why != "" {
			return failed(5006, why)
		}
	}
	if why := w.check(row); why != "" {
		return failed(5006, why)
	}
	if strings.Contains(strings.ToLower(w.Prompt), "nsfw") {
		return failed(8007)
	}
	w.fill(row)
	return w.answer(row)
}

func formAsJSON(body []byte, boundary string) ([]byte, error) {
	fields := map[string]any{}
	reader := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			return json.Marshal(fields)
		}
		if err != nil {
			return nil, err
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		fields[part.FormName()] = string(value)
		if n, err := strconv.ParseFloat(string(value), 64); err == nil && part.FormName() != "prompt" {
			fields[part.FormName()] = n
		}
	}
}

func (w wish) check(row catalogue.Model) string {
	if w.Prompt == "" || row.Prompt > 0 && len([]rune(w.Prompt)) > row.Prompt {
		return fmt.Sprintf("Error: Length of '/prompt' must be 1 to %d", row.Prompt)
	}
	outside := func(n float64, b catalogue.Bound) bool { return n != 0 && b.Max > 0 && (n < b.Min || n > b.Max) }
	switch {
	case outside(float64(w.Width), row.Width):
		return "Error: '/width' is out of range"
	case outside(float64(w.Height), row.Height):
		return "Error: '/height' is out of range"
	case outside(float64(max(w.Steps, w.NumSteps)), row.Steps):
		return "Error: '/steps' is out of range"
	case w.Guidance != nil && outside(*w.Guidance, row.Guidance):
		return "Error: '/guidance' is out of range"
	}
	return ""
}

func (w *wish) fill(row catalogue.Model) {
	if w.Width == 0 {
		w.Width = int(row.Width.Default)
	}
	if w.Height == 0 {
		w.Height = int(row.Height.Default)
	}
	w.Steps = max(w.Steps, w.NumSteps)
}

func (w wish) answer(row catalogue.Model) answer {
	var encoded bytes.Buffer
	picture := w.paint()
	asPNG := row.Answer == catalogue.ImageBytes && row.Width.Min > 1 // the Stable Diffusion family
	err := jpeg.Encode(&encoded, picture, &jpeg.Options{Quality: 80})
	contentType := "image/jpeg"
	if asPNG {
		encoded.Reset()
		err = (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&encoded, picture)
		contentType = "image/png"
	}
	if err != nil {
		return failed(3043)
	}
	neurons := row.ImageNeurons(w.Width, w.Height, w.Steps)
	if row.Answer == catalogue.ImageBytes {
		return answer{
			status: http.StatusOK, contentType: contentType, body: encoded.Bytes(), neurons: neurons,
			silent: strings.Contains(row.ID, "phoenix"),
		}
	}
	return result(map[string]any{"image": base64.StdEncoding.EncodeToString(encoded.Bytes())}, neurons)
}

// paint draws a landscape of sky, sun and hills. Its colours and hills depend on the
// prompt and seed. Few colours keep encoding fast.
func (w wish) paint() image.Image {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, w.Prompt, w.Seed)
	n := h.Sum64()
	part := func(shift, of uint64) float64 { return float64(n>>shift%of) / float64(of) }
	var palette color.Palette
	hue := part(3, 360)
	for i := range 8 {
		light := 1 - float64(i)/10
		palette = append(palette, color.RGBA{
			uint8(255 * light * (0.5 + 0.5*math.Sin(6.28*hue))), uint8(255 * light * (0.5 + 0.5*math.Sin(6.28*hue+2))),
			uint8(255 * light * (0.6 + 0.4*math.Sin(6.28*hue+4))), 255,
		})
	}
	palette = append(palette, color.RGBA{255, 220, 120, 255})
	img := image.NewPaletted(image.Rect(0, 0, w.Width, w.Height), palette)
	sunX, sunY, sunR := part(11, 97)*float64(w.Width), part(17, 89)*float64(w.Height)/3, float64(w.Height)/9
	for x := range w.Width {
		fx := float64(x) / float64(w.Width) * 6.28
		hill := float64(w.Height) * (0.62 + 0.08*math.Sin(fx*(1+part(23, 5)*3)+part(29, 83)*6) + 0.04*math.Sin(fx*5+part(31, 79)*6))
		for y := range w.Height {
			c := uint8(float64(y) / float64(w.Height) * 4)
			dx, dy := float64(x)-sunX, float64(y)-sunY
			switch {
			case float64(y) > hill:
				c = 6
			case dx*dx+dy*dy < sunR*sunR:
				c = 8
			}
			img.Pix[y*img.Stride+x] = c
		}
	}
	return img
}
