package workersaitest_test

import (
	"bytes"
	"encoding/json"
	"image"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// live returns the models of a kind that are not withdrawn.
func live(kind string) []string {
	var ids []string
	for _, m := range catalogue.All() {
		if m.Kind == kind && m.WithdrawnOn == "" {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func fields(t *testing.T, body string) map[string]json.RawMessage {
	t.Helper()
	var f map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(body), &f))
	return f
}

func TestEveryTextModelAnswersPromptMessagesToolsAndJSON(t *testing.T) {
	client := workersaitest.New(workersaitest.Options{NoLimits: true}).Client()
	for _, model := range live("text") {
		g, meta, err := client.Generate(t.Context(), model, fields(t, `{"prompt":"three rivers","max_tokens":100}`))
		require.NoError(t, err, model)
		require.Contains(t, g.Text, "three rivers", model)
		require.NotEmpty(t, meta.RequestID)

		g, _, err = client.Generate(t.Context(), model, fields(t, `{"messages":[{"role":"system","content":"brief"},{"role":"user","content":"three lakes"},{"role":"assistant","content":null}]}`))
		require.NoError(t, err, model)
		require.Contains(t, g.Text, "three lakes", model)

		g, _, err = client.Generate(t.Context(), model, fields(t, `{"prompt":"weather in Lisbon","tools":[{"type":"function","function":{"name":"weather","description":"d",
			"parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"},"unit":{"enum":["c","f"]}},"required":["city"]}}}]}`))
		require.NoError(t, err, model)
		require.Len(t, g.ToolCalls, 1, model)
		require.JSONEq(t, `{"city":"weather","days":1,"unit":"c"}`, string(g.ToolCalls[0].Arguments), model)

		g, _, err = client.Generate(t.Context(), model, fields(t, `{"prompt":"x","response_format":{"type":"json_schema","json_schema":{"type":"object","properties":{"ok":{"type":"boolean"}}}}}`))
		require.NoError(t, err, model)
		require.JSONEq(t, `{"ok":true}`, g.Text, model)
	}
}

func TestEveryEmbeddingModelGivesUnitVectorsNearerForSharedWords(t *testing.T) {
	client := workersaitest.New(workersaitest.Options{NoLimits: true}).Client()
	for _, model := range live("embedding") {
		e, meta, err := client.Embed(t.Context(), model, workersai.EmbedInput{Texts: []string{"red apples grow", "green apples grow", "engines roar loudly"}})
		require.NoError(t, err, model)
		require.Len(t, e.Vectors, 3)
		v := make([][]float32, 3)
		for i, raw := range e.Vectors {
			require.NoError(t, json.Unmarshal(raw, &v[i]))
		}
		require.InDelta(t, 1, dot(v[0], v[0]), 1e-3, model)
		require.Greater(t, dot(v[0], v[1]), dot(v[0], v[2])+0.2, model)
		if row, _ := catalogue.Find(model); row.Price.PerMInput > 0 {
			require.Positive(t, meta.Neurons, model)
		}
	}
}

func dot(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

func TestEveryImageModelDrawsInTheSizeAsked(t *testing.T) {
	client := workersaitest.New(workersaitest.Options{NoLimits: true}).Client()
	for _, model := range live("image") {
		row, _ := catalogue.Find(model)
		in := workersai.ImageInput{Prompt: "a mill", Width: 320, Height: 256, Steps: 2, Guidance: 3, NegativePrompt: "people"}
		want := [2]int{320, 256}
		if row.Width.Max == 0 {
			want = [2]int{1024, 1024}
		}
		picture, meta, err := client.Image(t.Context(), model, in)
		require.NoError(t, err, model)
		_, _, err = image.Decode(bytes.NewReader(picture.Data))
		require.NoError(t, err, model)
		require.Equal(t, want, [2]int{picture.Width, picture.Height}, model)
		if row.Price != (catalogue.Price{}) {
			require.Positive(t, meta.Neurons, "%s: estimated where the header is missing", model)
		}
	}
}

func TestEverySpeechModelFitsItsTimesToTheAudio(t *testing.T) {
	client := workersaitest.New(workersaitest.Options{NoLimits: true}).Client()
	for _, model := range live("transcription") {
		wav := workersaitest.SampleWAV()
		heard, _, err := client.Transcribe(t.Context(), model, workersai.TranscribeInput{
			Audio: bytes.NewReader(wav), Size: int64(len(wav)), ContentType: "audio/wav", Language: "en", VADFilter: true,
		})
		require.NoError(t, err, model)
		require.NotEmpty(t, heard.Text, model)
		require.InDelta(t, 2.4, heard.Duration, 0.01, model)
		require.InDelta(t, 2.4, heard.Words[len(heard.Words)-1].End, 0.01, model)
		_, _, err = client.Transcribe(t.Context(), model, workersai.TranscribeInput{Audio: strings.NewReader("not audio"), Size: 9, ContentType: "audio/wav"})
		require.Equal(t, 8001, code(t, err), model)
	}
}

func TestEveryTranslationModelTranslates(t *testing.T) {
	client := workersaitest.New(workersaitest.Options{NoLimits: true}).Client()
	for _, model := range live("translation") {
		row, _ := catalogue.Find(model)
		in := workersai.TranslateInput{Texts: []string{"hello"}, Target: row.Languages()[3]}
		if row.Answer == catalogue.Translations {
			in.Texts = []string{"hello", "world"}
		}
		out, _, err := client.Translate(t.Context(), model, in)
		require.NoError(t, err, model)
		require.Len(t, out, len(in.Texts))
		in.Target = "xx"
		_, _, err = client.Translate(t.Context(), model, in)
		require.Equal(t, 5006, code(t, err), model)
	}
}

func code(t *testing.T, err error) int {
	t.Helper()
	var api *workersai.Error
	require.ErrorAs(t, err, &api)
	return api.Code
}

func TestWhatTheAPIRefusesIsRefusedWithItsCode(t *testing.T) {
	client := workersaitest.New(workersaitest.Options{Token: "right"}).Client()
	texts := make([]string, 101)
	for i := range texts {
		texts[i] = "x"
	}
	long := strings.Repeat("word ", 8000)
	embed := func(model string, texts ...string) error {
		_, _, err := client.Embed(t.Context(), model, workersai.EmbedInput{Texts: texts})
		return err
	}
	_, _, nsfw := client.Image(t.Context(), "@cf/black-forest-labs/flux-1-schnell", workersai.ImageInput{Prompt: "nsfw"})
	_, _, context := client.Generate(t.Context(), "@cf/meta/llama-3.3-70b-instruct-fp8-fast", fields(t, `{"prompt":"x","max_tokens":24001}`))
	wrong := *client
	wrong.Token = "wrong"
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"unknown model":    {embed("@cf/no/such", "x"), 5007},
		"withdrawn model":  {embed("@cf/microsoft/phi-2", "x"), 5028},
		"too many texts":   {embed("@cf/baai/bge-base-en-v1.5", texts...), 5006},
		"33 texts":         {embed("@cf/qwen/qwen3-embedding-0.6b", texts[:33]...), 5006},
		"long text":        {embed("@cf/baai/bge-m3", long), 3030},
		"long sum":         {embed("@cf/baai/bge-m3", slicesOf(long[:30000], 9)...), 3030},
		"flagged prompt":   {nsfw, 8007},
		"context exceeded": {context, 5021},
		"wrong token":      {wrong.Probe(t.Context()), 10000},
	} {
		require.Equal(t, c.want, code(t, c.err), name)
	}
	require.NoError(t, client.Probe(t.Context()))
}

// The client fills these in, so the test sends the request without the client.
func TestANativeModelRefusesToolsWithoutDescriptions(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{NoLimits: true})
	for tool, want := range map[string]string{
		`{"name":"f","parameters":{"type":"object","properties":{}}}`:                                          "'description'",
		`{"type":"function","function":{"name":"f","description":""}}`:                                         "'parameters'",
		`{"name":"f","description":"","parameters":{"properties":{}}}`:                                         "'parameters/type'",
		`{"name":"f","description":"","parameters":{"type":"object"}}`:                                         "'parameters/properties'",
		`{"name":"f","description":"","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}`: "'parameters/properties/city/description'",
	} {
		for model, refused := range map[string]bool{"@cf/meta/llama-3.3-70b-instruct-fp8-fast": true, "@cf/zai-org/glm-4.7-flash": false} {
			body := strings.NewReader(`{"messages":[{"role":"user","content":"x"}],"tools":[` + tool + `]}`)
			request := httptest.NewRequest(http.MethodPost, "/client/v4/accounts/a/ai/run/"+model, body)
			request.Header.Set("Authorization", "Bearer any")
			recorder := httptest.NewRecorder()
			emulator.ServeHTTP(recorder, request)
			require.Equal(t, refused, recorder.Code == http.StatusBadRequest, "%s %s", model, tool)
			if refused {
				require.Contains(t, recorder.Body.String(), want)
			}
		}
	}
}

func slicesOf(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// The codes of the API's error page, observed codes and codes of older documents, with
// their HTTP status and the caller's reaction.
func TestEveryRefusalCanBeAskedFor(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{})
	classes := map[workersai.Class]map[int][]int{
		workersai.Permanent: {
			400: {3003, 3030, 3039, 5004, 5006, 5007, 7504, 8001, 8006, 8007, 9015, 10063}, 404: {3042, 7502}, 405: {5005, 5019},
			410: {5028}, 413: {3006, 3010, 5021, 7506}, 422: {5012},
		},
		workersai.Transient: {408: {3007, 3008}, 500: {3043, 8004, 8005}},
		workersai.Guarded:   {408: {3046}, 500: {8008}},
		workersai.Busy:      {429: {3040}},
		workersai.Throttled: {429: {971, 2021, 3021, 7505, 10429}},
		workersai.Quota:     {429: {3036, 4006}},
		workersai.Auth:      {400: {2001, 7000, 9106}, 401: {10000}, 403: {3023, 3041, 5016, 5018, 5035}, 404: {7003}},
	}
	for class, statuses := range classes {
		for status, codes := range statuses {
			for _, code := range codes {
				emulator.Reset()
				emulator.Fault(workersaitest.Fault{Code: code})
				_, _, err := emulator.Client().Embed(t.Context(), "@cf/baai/bge-m3", workersai.EmbedInput{Texts: []string{"x"}})
				var api *workersai.Error
				require.ErrorAs(t, err, &api, code)
				require.Equal(t, code, api.Code)
				require.Equal(t, status, api.Status, code)
				require.Equal(t, class, api.Class(), code)
				require.NotEmpty(t, api.RequestID, code)
				require.False(t, emulator.Requests()[0].Billed, code)
			}
		}
	}
}
