package workersaitest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// published is a file of testdata/schemas: the schema of a model's input and output, from
// Cloudflare's documentation and type definitions. Its basis names the source.
type published struct {
	Models []string
	Basis  []string
	Input  jsonSchema
	Output jsonSchema
}

// jsonSchema is the part of JSON schema that the published ones use.
type jsonSchema struct {
	Type       any                   `json:"type"`
	OneOf      []jsonSchema          `json:"oneOf"`
	Properties map[string]jsonSchema `json:"properties"`
	Additional json.RawMessage       `json:"additionalProperties"`
	Required   []string              `json:"required"`
	Items      *jsonSchema           `json:"items"`
	Enum       []any                 `json:"enum"`
	Minimum    *float64              `json:"minimum"`
	Maximum    *float64              `json:"maximum"`
	MinLength  int                   `json:"minLength"`
	MaxLength  int                   `json:"maxLength"`
	MaxItems   int                   `json:"maxItems"`
	Body       string                `json:"x-body"`
	Fields     *jsonSchema           `json:"x-fields"`
}

// mismatch describes where a value violates the schema. It returns "" for a valid value.
func (s jsonSchema) mismatch(path string, v any) string {
	if len(s.OneOf) > 0 {
		var all string
		for _, one := range s.OneOf {
			why := one.mismatch(path, v)
			if why == "" {
				return ""
			}
			all += "; " + why
		}
		return all[2:]
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return fmt.Sprintf("%s: %v is none of %v", path, v, s.Enum)
	}
	if !s.takes(v) {
		return fmt.Sprintf("%s: %T is no %v", path, v, s.Type)
	}
	switch v := v.(type) {
	case string:
		if n := len([]rune(v)); n < s.MinLength || s.MaxLength > 0 && n > s.MaxLength {
			return fmt.Sprintf("%s: a length of %d", path, n)
		}
	case float64:
		if s.Minimum != nil && v < *s.Minimum || s.Maximum != nil && v > *s.Maximum {
			return fmt.Sprintf("%s: %v is out of range", path, v)
		}
	case []any:
		if s.MaxItems > 0 && len(v) > s.MaxItems {
			return fmt.Sprintf("%s: %d items", path, len(v))
		}
		for i, element := range v {
			if s.Items == nil {
				break
			}
			if why := s.Items.mismatch(fmt.Sprintf("%s/%d", path, i), element); why != "" {
				return why
			}
		}
	case map[string]any:
		return s.objectMismatch(path, v)
	}
	return ""
}

func (s jsonSchema) objectMismatch(path string, v map[string]any) string {
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return path + "/" + name + " is missing"
		}
	}
	for name, value := range v {
		property, known := s.Properties[name]
		if !known {
			if string(s.Additional) == "false" {
				return path + "/" + name + " is not known"
			}
			if json.Unmarshal(s.Additional, &property) != nil {
				continue
			}
		}
		if why := property.mismatch(path+"/"+name, value); why != "" {
			return why
		}
	}
	return ""
}

func (s jsonSchema) takes(v any) bool {
	names, ok := s.Type.([]any)
	if !ok {
		names = []any{s.Type}
	}
	for _, name := range names {
		switch v := v.(type) {
		case nil:
			ok = name == "null"
		case bool:
			ok = name == "boolean"
		case string:
			ok = name == "string"
		case float64:
			ok = name == "number" || name == "integer" && v == float64(int64(v))
		case []any:
			ok = name == "array"
		case map[string]any:
			ok = name == "object"
		}
		if ok || name == nil {
			return true
		}
	}
	return false
}

// schemaOf finds the published schema of a model. The schemas of the two families of text
// models name no ids.
func schemaOf(t *testing.T, model string) (found published, ok bool) {
	t.Helper()
	row, _ := catalogue.Find(model)
	files, err := filepath.Glob("../testdata/schemas/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		var p published
		require.NoError(t, json.Unmarshal(raw, &p), file)
		require.NotEmpty(t, p.Basis, file)
		if slices.Contains(p.Models, model) || filepath.Base(file) == "text-generation-"+string(row.Answer)+".json" {
			return p, true
		}
	}
	return published{}, false
}

// more are calls that set every option.
var more = map[string][]question{
	"text": {
		generate(`{"messages":[{"role":"system","content":"brief"},{"role":"user","content":[{"type":"text","text":"x"}]},{"role":"assistant","content":null}],
			"max_tokens":10,"temperature":0,"top_p":1,"seed":9999999999,"frequency_penalty":-2,"presence_penalty":2}`),
		generate(`{"prompt":"x","tools":[{"name":"f"}]}`),
		generate(`{"prompt":"x","response_format":{"type":"json_object"}}`),
	},
	"image": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		seed := int64(7)
		out, _, err := c.Image(t.Context(), model, workersai.ImageInput{
			Prompt: "a mill", NegativePrompt: "people", Width: 256, Height: 256, Steps: 4, Guidance: 2.5, Seed: &seed,
		})
		return out, err
	}},
	"translation": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		row, _ := catalogue.Find(model)
		in := workersai.TranslateInput{Texts: []string{"hello"}, Source: "en", Target: row.Languages()[3]}
		out, _, err := c.Translate(t.Context(), model, in)
		return out, err
	}},
	"embedding": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		out, _, err := c.Embed(t.Context(), model, workersai.EmbedInput{Texts: []string{"x"}, Pooling: "cls"})
		return out, err
	}},
	"transcription": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		wav := workersaitest.SampleWAV()
		out, _, err := c.Transcribe(t.Context(), model, workersai.TranscribeInput{
			Audio: bytes.NewReader(wav), Size: int64(len(wav)), ContentType: "audio/wav",
			Language: "en", Task: "translate", InitialPrompt: "a mill", VADFilter: true,
		})
		return out, err
	}},
}

// Client and emulator have the same author and might share an error. The published
// schemas show whether they agree with the API.
func TestRequestsAndEmulatedAnswersFitThePublishedSchemas(t *testing.T) {
	client := workersaitest.New(workersaitest.Options{NoLimits: true}).Client()
	emulator := client.HTTP.Transport
	checked := 0
	for kind := range questions {
		for _, model := range live(kind) {
			schema, ok := schemaOf(t, model)
			if !ok {
				continue
			}
			checked++
			for i, ask := range slices.Concat(questions[kind], more[kind]) {
				var request, answer []byte
				var contentType, answered string
				client.HTTP = &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
					contentType = req.Header.Get("Content-Type")
					request, _ = io.ReadAll(req.Body)
					req.Body = io.NopCloser(bytes.NewReader(request))
					resp, err := emulator.RoundTrip(req)
					if err == nil {
						answered = resp.Header.Get("Content-Type")
						answer, _ = io.ReadAll(resp.Body)
						resp.Body = io.NopCloser(bytes.NewReader(answer))
					}
					return resp, err
				})}
				_, err := ask(t, client, model)
				require.NoError(t, err, "%s %d", model, i)
				if in, sent := sentFields(t, schema, contentType, request); sent != nil {
					require.Empty(t, in.mismatch("", sent), "%s %d: %s", model, i, request)
				}
				var envelope struct{ Result any }
				if answered == "application/json" && json.Unmarshal(answer, &envelope) == nil {
					require.Empty(t, schema.Output.mismatch("", envelope.Result), "%s %d", model, i)
				}
			}
		}
	}
	require.Greater(t, checked, 40)
}

// sentFields returns the fields of a request and their schema; nil for raw audio.
func sentFields(t *testing.T, schema published, contentType string, body []byte) (jsonSchema, any) {
	t.Helper()
	mediaType, parameters, _ := mime.ParseMediaType(contentType)
	switch mediaType {
	case "application/json":
		require.Empty(t, schema.Input.Body, "the model takes no JSON")
		var sent any
		require.NoError(t, json.Unmarshal(body, &sent))
		return schema.Input, sent
	case "multipart/form-data":
		require.Equal(t, mediaType, schema.Input.Body)
		form, err := multipart.NewReader(bytes.NewReader(body), parameters["boundary"]).ReadForm(1 << 20)
		require.NoError(t, err)
		for name := range form.Value {
			require.Contains(t, schema.Input.Fields.Properties, name)
		}
		require.NotEmpty(t, form.Value["prompt"])
	}
	return jsonSchema{}, nil
}
