package workersai_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/workersai"
	"github.com/stretchr/testify/require"
)

const (
	native = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
	chat   = "@cf/zai-org/glm-4.7-flash"
	token  = "cf-secret-0123456789abcdef0123456789abcdef"
)

// api is a server that keeps the last request and sends a configured answer.
type api struct {
	*httptest.Server
	header http.Header
	path   string
	body   []byte
}

func serve(t *testing.T, answer http.HandlerFunc) (*api, *workersai.Client) {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.header, a.path = r.Header, r.URL.Path
		a.body, _ = io.ReadAll(r.Body)
		answer(w, r)
	}))
	t.Cleanup(a.Close)
	return a, &workersai.Client{BaseURL: a.URL, AccountID: "acc", Token: token, HTTP: a.Client()}
}

func answers(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cf-Ai-Neurons", "2.5")
		_, _ = io.WriteString(w, body)
	}
}

const (
	said       = `{"result":{"response":"Hello"},"success":true,"errors":[]}`
	translated = `{"result":{"translated_text":"Olá"},"success":true,"errors":[]}`
	tinyPNG    = `{"result":{"image":"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="},"success":true}`
)

func generate(ctx context.Context, c *workersai.Client, model string, body map[string]json.RawMessage) (workersai.Meta, error) {
	_, meta, err := c.Generate(ctx, model, body)
	return meta, err
}

func TestCallsNameTheGatewayWhereOneIsSet(t *testing.T) {
	server, client := serve(t, answers(said))
	_, err := generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`))
	require.NoError(t, err)
	require.Empty(t, server.header.Values("Cf-Aig-Gateway-Id"))
	require.Equal(t, "/accounts/acc/ai/run/"+chat, server.path)
	require.Equal(t, "Bearer "+token, server.header.Get("Authorization"))

	client.Gateway = "mill"
	_, err = generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`))
	require.NoError(t, err)
	require.Equal(t, []string{"mill"}, server.header.Values("Cf-Aig-Gateway-Id"))
}

func TestATranslationNamesItsSourceLanguage(t *testing.T) {
	server, client := serve(t, answers(translated))
	for source, want := range map[string]string{
		"fr": `{"text":"Bonjour","source_lang":"fr","target_lang":"pt"}`,
		"":   `{"text":"Bonjour","target_lang":"pt"}`,
	} {
		_, _, err := client.Translate(t.Context(), "@cf/meta/m2m100-1.2b", workersai.TranslateInput{Texts: []string{"Bonjour"}, Source: source, Target: "pt"})
		require.NoError(t, err)
		require.JSONEq(t, want, string(server.body))
	}
}

func TestAnImageModelGetsTheFieldsItTakesAndNoOther(t *testing.T) {
	server, client := serve(t, answers(tinyPNG))
	seed := int64(9007199254740993)
	in := workersai.ImageInput{Prompt: "a mill", NegativePrompt: "people", Width: 512, Height: 256, Steps: 7, Guidance: 2.5, Seed: &seed}
	for model, want := range map[string]string{
		"@cf/black-forest-labs/flux-1-schnell": `{"prompt":"a mill","steps":7}`,
		"@cf/leonardo/phoenix-1.0":             `{"prompt":"a mill","negative_prompt":"people","width":512,"height":256,"num_steps":7,"guidance":2.5,"seed":9007199254740993}`,
	} {
		_, _, err := client.Image(t.Context(), model, in)
		require.NoError(t, err)
		require.Equal(t, sorted(t, want), sorted(t, string(server.body)), model)
	}
	_, _, err := client.Image(t.Context(), "@cf/black-forest-labs/flux-2-klein-4b", in)
	require.NoError(t, err)
	require.Contains(t, server.header.Get("Content-Type"), "multipart/form-data")
	require.Contains(t, string(server.body), "name=\"seed\"\r\n\r\n9007199254740993\r\n")
}

// sorted formats JSON with sorted fields and all digits of its numbers.
func sorted(t *testing.T, raw string) string {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(raw))
	decoder.UseNumber()
	var v any
	require.NoError(t, decoder.Decode(&v))
	encoded, err := json.Marshal(v)
	require.NoError(t, err)
	return string(encoded)
}

func TestAJSONSchemaIsSentInTheFormOfTheModelsFamily(t *testing.T) {
	server, client := serve(t, answers(said))
	const bare = `{"type":"object","properties":{"ok":{"type":"boolean"}}}`
	const wrapped = `{"name":"answer","schema":` + bare + `}`
	for model, want := range map[string]string{native: bare, chat: wrapped} {
		for _, given := range []string{bare, wrapped} {
			_, err := generate(t.Context(), client, model, fields(t, `{"prompt":"Hi","response_format":{"type":"json_schema","json_schema":`+given+`}}`))
			require.NoError(t, err)
			sent := fields(t, string(server.body))
			require.JSONEq(t, `{"type":"json_schema","json_schema":`+want+`}`, string(sent["response_format"]), model)
			require.Equal(t, model == chat, string(sent["stream"]) == "true", "native models do not stream in JSON mode")
		}
	}
}

func TestToolsOfNativeModelsAlwaysHaveDescriptions(t *testing.T) {
	server, client := serve(t, answers(said))
	const given = `{"prompt":"Hi","seed":12345678901234567,"tools":[
		{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"unit":{"type":"string","description":"c or f"}},"required":["city"]}}},
		{"name":"clock"},
		{"name":"kept","description":"Says it.","parameters":{"type":"object","properties":{}}}]}`
	_, err := generate(t.Context(), client, native, fields(t, given))
	require.NoError(t, err)
	sent := fields(t, string(server.body))
	require.JSONEq(t, `[
		{"type":"function","function":{"name":"weather","description":"","parameters":{"type":"object","properties":{"city":{"type":"string","description":""},"unit":{"type":"string","description":"c or f"}},"required":["city"]}}},
		{"name":"clock","description":"","parameters":{"type":"object","properties":{}}},
		{"name":"kept","description":"Says it.","parameters":{"type":"object","properties":{}}}]`, string(sent["tools"]))
	require.Equal(t, "12345678901234567", string(sent["seed"]))

	_, err = generate(t.Context(), client, chat, fields(t, given))
	require.NoError(t, err)
	require.NotContains(t, string(fields(t, string(server.body))["tools"]), `"description":""`)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		reached := false
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
		server, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/stolen?token=1", status)
		})
		for _, ask := range []func() error{
			func() error { _, err := generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`)); return err },
			func() error { _, err := client.Catalogue(t.Context()); return err },
			func() error { return client.Probe(t.Context()) },
		} {
			err := ask()
			require.False(t, reached, status)
			api, ok := errors.AsType[*workersai.Error](err)
			require.True(t, ok)
			require.Equal(t, status, api.Status)
			require.Equal(t, workersai.Auth, api.Class())
			require.Contains(t, api.Error(), "redirect to "+other.URL+", which is not followed: check CLOUDFLARE_BASE_URL")
			require.NotContains(t, api.Error(), "stolen")
		}
		require.Nil(t, server.Client().CheckRedirect, "the caller's client is left as it was")
		other.Close()
	}
}

func TestErrorsNeverShowTheToken(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"envelope": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"errors":[{"code":10000,"message":"no such token: `+r.Header.Get("Authorization")+`"}]}`)
		},
		"text": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, strings.Repeat("x", 180)+r.Header.Get("Authorization"))
		},
		"headers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cf-Ai-Req-Id", token)
			w.Header().Set("Cf-Ray", token)
			w.WriteHeader(500)
		},
		"content type": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/"+token)
			_, _ = io.WriteString(w, "hello")
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+token+".example", http.StatusFound)
		},
		"frame": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "event: error\ndata: bad token "+token+"\n\n")
		},
	} {
		_, client := serve(t, answer)
		meta, err := generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`))
		var api *workersai.Error
		require.ErrorAs(t, err, &api, name)
		for _, text := range []string{api.Error(), api.RequestID, api.Ray, meta.RequestID, meta.Ray} {
			require.NotContains(t, text, token[:12], name)
		}
	}
}

// text is an endless body.
type text struct{}

func (text) Read(p []byte) (int, error) { return copy(p, longText), nil }

var longText = bytes.Repeat([]byte("x"), 64<<10)

func TestAnAnswerLargerThanTheLimitIsUnusable(t *testing.T) {
	const most = 64 << 20
	for name, stream := range map[string]string{"JSON": `{"result":"`, "stream": `data: {"response":"`} {
		transport := roundTrip(func(req *http.Request) (*http.Response, error) {
			body := io.MultiReader(strings.NewReader(stream), io.LimitReader(text{}, most))
			return &http.Response{StatusCode: 200, Header: http.Header{"Cf-Ai-Neurons": {"7"}}, Body: io.NopCloser(body)}, nil
		})
		client := &workersai.Client{Token: token, HTTP: &http.Client{Transport: transport}}
		meta, err := generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`))
		var api *workersai.Error
		require.ErrorAs(t, err, &api, name)
		require.Equal(t, workersai.Unusable, api.Class(), name)
		require.Contains(t, api.Message, "more than 67108864 bytes", name)
		require.InDelta(t, 7.0, meta.Neurons, 0, name)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestThePriceComesBesideErrorsToo(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cf-Ai-Neurons", "2.5")
			w.WriteHeader(500)
		},
		"cut": func(w http.ResponseWriter, r *http.Request) {
			answers(said[:20])(w, r)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"unusable": answers(`{"result":[],"success":true}`),
	} {
		_, client := serve(t, answer)
		metas := map[string]workersai.Meta{}
		var err error
		metas["text"], err = generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`))
		require.Error(t, err, name)
		_, metas["embedding"], err = client.Embed(t.Context(), "@cf/baai/bge-m3", workersai.EmbedInput{Texts: []string{"a"}})
		require.Error(t, err, name)
		_, metas["translation"], err = client.Translate(t.Context(), "@cf/meta/m2m100-1.2b", workersai.TranslateInput{Texts: []string{"a"}, Target: "pt"})
		require.Error(t, err, name)
		_, metas["image"], err = client.Image(t.Context(), "@cf/black-forest-labs/flux-1-schnell", workersai.ImageInput{Prompt: "a"})
		require.Error(t, err, name)
		_, metas["transcription"], err = client.Transcribe(t.Context(), "@cf/openai/whisper", workersai.TranscribeInput{Audio: bytes.NewReader([]byte("RIFF")), Size: 4})
		require.Error(t, err, name)
		for kind, meta := range metas {
			require.True(t, meta.Priced, "%s %s", name, kind)
			require.InDelta(t, 2.5, meta.Neurons, 0, "%s %s", name, kind)
			require.Positive(t, meta.Took, "%s %s", name, kind)
		}
	}
}

func TestAPriceThatIsNoneIsReplacedByTheEstimate(t *testing.T) {
	for _, header := range []string{"NaN", "Inf", "-Infinity", "-1", "1e300", "much", ""} {
		_, client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cf-Ai-Neurons", header)
			_, _ = io.WriteString(w, `{"result":{"response":"Hello","usage":{"neurons":-7}},"success":true}`)
		})
		g, meta, err := client.Generate(t.Context(), chat, fields(t, `{"prompt":"Hi"}`))
		require.NoError(t, err, header)
		require.Equal(t, "Hello", g.Text)
		require.False(t, meta.Priced, header)
		require.Positive(t, meta.Neurons, header)
		require.Less(t, meta.Neurons, 1.0, header)
	}
	_, client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cf-Ai-Neurons", "0.0000")
		_, _ = io.WriteString(w, said)
	})
	meta, err := generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`))
	require.NoError(t, err)
	require.True(t, meta.Priced, "a call that cost nothing is priced too")
	require.Zero(t, meta.Neurons)
}

func TestARefusalWhoseBodyBreaksOffIsJudgedByItsStatus(t *testing.T) {
	for status, want := range map[int]workersai.Class{429: workersai.Throttled, 503: workersai.Transient, 400: workersai.Transient} {
		_, client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "9")
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(status)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		_, err := generate(t.Context(), client, chat, fields(t, `{"prompt":"Hi"}`))
		var api *workersai.Error
		require.ErrorAs(t, err, &api)
		require.Equal(t, want, api.Class(), status)
		require.Equal(t, status != 400, api.RetryAfter > 0, status)
	}
}

func TestARequestThatCannotBeWrittenIsNotTriedAgain(t *testing.T) {
	client := &workersai.Client{Token: token}
	_, _, err := client.Generate(t.Context(), chat, map[string]json.RawMessage{"prompt": json.RawMessage(`"cut`)})
	var api *workersai.Error
	require.ErrorAs(t, err, &api)
	require.Equal(t, workersai.Permanent, api.Class())
	require.False(t, api.Lost())
}

func TestWhatIsNoToolOrMessageIsLeftToTheAPI(t *testing.T) {
	server, client := serve(t, answers(said))
	const given = `{"messages":[null,"x",{"role":"assistant"}],"tools":[null,7,{"function":3},{"name":"f","parameters":{"properties":[]}},{"name":"g","parameters":{"properties":{"a":true}}}],"response_format":7}`
	_, err := generate(t.Context(), client, native, fields(t, given))
	require.NoError(t, err)
	sent := fields(t, string(server.body))
	require.JSONEq(t, `[null,"x",{"role":"assistant","content":""}]`, string(sent["messages"]))
	require.JSONEq(t, `[null,7,{"function":3},{"name":"f","description":"","parameters":{"type":"object","properties":[]}},
		{"name":"g","description":"","parameters":{"type":"object","properties":{"a":true}}}]`, string(sent["tools"]))
}
