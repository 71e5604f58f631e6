package openai_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestBodiesBecomePayloads(t *testing.T) {
	cases := []struct{ name, endpoint, body, model, payload string }{
		{
			"a text to embed", openai.Embeddings, `{"model":"@cf/baai/bge-m3","input":"hello","encoding_format":"base64","user":"u1"}`,
			"@cf/baai/bge-m3", `{"texts":["hello"]}`,
		},
		{
			"texts to embed, and the model by its last name", openai.Embeddings, `{"model":"bge-small-en-v1.5","input":["a","b"],"dimensions":384,"pooling":"cls"}`,
			"@cf/baai/bge-small-en-v1.5", `{"texts":["a","b"],"pooling":"cls"}`,
		},
		{
			"a chat with all settings", openai.Chat, `{"model":"@cf/zai-org/glm-4.7-flash","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:,"}}]}],
			 "max_completion_tokens":9,"temperature":0.5,"top_p":1,"seed":7,"stop":["x"],"frequency_penalty":1,"presence_penalty":-1,"n":1,"store":true,"service_tier":"auto",
			 "reasoning_effort":"low","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object"}}},"something_new":{"a":[1]}}`,
			"@cf/zai-org/glm-4.7-flash",
			`{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:,"}}]}],"max_tokens":9,"temperature":0.5,"top_p":1,"seed":7,
			 "frequency_penalty":1,"presence_penalty":-1,"stop":["x"],"reasoning_effort":"low","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object"}}}}`,
		},
		{
			"an answer with a tool call that comes back with its result", openai.Chat, `{"model":"glm-4.7-flash","messages":[{"role":"user","content":"weather?"},
			 {"role":"assistant","content":null,"refusal":null,"annotations":[],"reasoning_content":"hm","tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}}]},
			 {"role":"tool","tool_call_id":"c1","content":"sunny"}],"tools":[{"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object"},"strict":true}}],
			 "tool_choice":{"type":"function","function":{"name":"weather"}},"parallel_tool_calls":false,"logprobs":false,"logit_bias":{},"top_logprobs":null}`,
			"@cf/zai-org/glm-4.7-flash",
			`{"messages":[{"role":"user","content":"weather?"},{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}}]},
			 {"role":"tool","content":"sunny","tool_call_id":"c1"}],"tools":[{"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object"},"strict":true}}],"tool_choice":{"type":"function","function":{"name":"weather"}}}`,
		},
		{
			"a model response with all settings", openai.Responses, `{"model":"glm-4.7-flash","instructions":"Be brief.","input":[{"role":"developer","content":"In Italian."},{"type":"message","role":"user","content":[{"type":"input_text","text":"weather?"},{"type":"input_image","image_url":"data:,"}]},
			 {"type":"reasoning","summary":[]},{"type":"function_call","call_id":"c1","name":"weather","arguments":"{\"city\":\"Rome\"}"},{"type":"function_call","call_id":"c2","name":"weather","arguments":"{}"},
			 {"type":"function_call_output","call_id":"c1","output":"sunny"},{"role":"assistant","content":[{"type":"output_text","text":"Sunny."}]}],
			 "max_output_tokens":9,"temperature":0.5,"top_p":1,"tools":[{"type":"function","name":"weather","description":"d","parameters":{"type":"object"},"strict":true}],"tool_choice":{"type":"function","name":"weather"},
			 "parallel_tool_calls":true,"text":{"format":{"type":"json_schema","name":"a","schema":{"type":"object"}},"verbosity":"medium"},"reasoning":{"effort":"low","summary":null},"store":false,"truncation":"disabled","something_new":1}`,
			"@cf/zai-org/glm-4.7-flash",
			`{"messages":[{"role":"system","content":"Be brief."},{"role":"system","content":"In Italian."},{"role":"user","content":[{"type":"text","text":"weather?"},{"type":"image_url","image_url":{"url":"data:,"}}]},
			 {"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}},{"id":"c2","type":"function","function":{"name":"weather","arguments":"{}"}}]},
			 {"role":"tool","content":"sunny","tool_call_id":"c1"},{"role":"assistant","content":"Sunny."}],"max_tokens":9,"temperature":0.5,"top_p":1,
			 "tools":[{"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object"},"strict":true}}],"tool_choice":{"type":"function","function":{"name":"weather"}},
			 "response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object"}}},"reasoning_effort":"low"}`,
		},
		{
			"a text as the input", openai.Responses, `{"model":"glm-4.7-flash","input":"hi","tool_choice":"auto"}`, "@cf/zai-org/glm-4.7-flash", `{"messages":[{"role":"user","content":"hi"}],"tool_choice":"auto"}`,
		},
		{
			"an image of the size that the model draws anyway", openai.Images, `{"model":"@cf/black-forest-labs/flux-1-schnell","prompt":"a mill","size":"1024x1024","n":1,"response_format":"b64_json","quality":"auto","steps":4}`,
			"@cf/black-forest-labs/flux-1-schnell", `{"prompt":"a mill","steps":4}`,
		},
		{
			"an image of another size", openai.Images, `{"model":"phoenix-1.0","prompt":"a mill","size":"512x768","seed":3,"negative_prompt":"people","guidance":3.5}`,
			"@cf/leonardo/phoenix-1.0", `{"prompt":"a mill","negative_prompt":"people","width":512,"height":768,"guidance":3.5,"seed":3}`,
		},
		{
			"a recording at a URL", openai.Transcriptions, `{"model":"whisper-large-v3-turbo","url":"https://example.com/a.mp3","language":"de","prompt":"names"}`,
			"@cf/openai/whisper-large-v3-turbo", `{"audio":{"url":"https://example.com/a.mp3"},"language":"de","initial_prompt":"names"}`,
		},
		{
			"speech into English", openai.Translations, `{"model":"whisper-large-v3-turbo","url":"https://example.com/a.mp3"}`,
			"@cf/openai/whisper-large-v3-turbo", `{"audio":{"url":"https://example.com/a.mp3"},"task":"translate"}`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := openai.ParseLine(c.endpoint, []byte(c.body))
			require.NoError(t, err)
			require.Equal(t, c.model, r.Model)
			payload, err := json.Marshal(r.Payload)
			require.NoError(t, err)
			require.JSONEq(t, c.payload, string(payload))
		})
	}
}

// The values of the bodies begin with "secret", so that the test sees when one is
// repeated.
func TestBadBodiesAreRefusedByField(t *testing.T) {
	chat := func(more string) string {
		return `{"model":"glm-4.7-flash","messages":[{"role":"user","content":"secret"}],` + more + `}`
	}
	cases := []struct{ endpoint, body, param, says string }{
		{openai.Embeddings, ``, "", "empty"},
		{openai.Embeddings, `["secret"]`, "", "JSON object"},
		{openai.Embeddings, `{"secret":1,"secret":2}`, "", "given twice"},
		{openai.Embeddings, `{"model":"secret`, "", "not valid JSON at byte"},
		{openai.Embeddings, "{\"model\":\"\xff\"}", "", "UTF-8"},
		{openai.Embeddings, `{"input":"a"}`, "model", "is missing"},
		{openai.Embeddings, `{"model":"secret","input":"a"}`, "model", "does not exist"},
		{openai.Embeddings, `{"model":7,"input":"a"}`, "model", "must be a string"},
		{openai.Embeddings, `{"model":"@cf/zai-org/glm-4.7-flash","input":"a"}`, "model", "does not do this"},
		{openai.Chat, `{"model":"@cf/moonshotai/kimi-k2.5","messages":[{"role":"user","content":"a"}]}`, "model", "use @cf/moonshotai/kimi-k2.6"},
		{openai.Embeddings, `{"model":"bge-m3"}`, "input", "is missing"},
		{openai.Embeddings, `{"model":"bge-m3","input":""}`, "input", "is empty"},
		{openai.Embeddings, `{"model":"bge-m3","input":["a"," "]}`, "input[1]", "is empty"},
		{openai.Embeddings, `{"model":"bge-m3","input":[]}`, "input", "empty list"},
		{openai.Embeddings, `{"model":"bge-m3","input":[1,2]}`, "input", "tokenizer"},
		{openai.Embeddings, `{"model":"bge-m3","input":["a",3]}`, "input", "must be a string or a list"},
		{openai.Embeddings, `{"model":"bge-m3","input":{"a":1}}`, "input", "must be a string or a list"},
		{openai.Embeddings, `{"model":"bge-m3","input":"a","dimensions":256}`, "dimensions", "have 1024"},
		{openai.Embeddings, `{"model":"bge-m3","input":"a","encoding_format":"secret"}`, "encoding_format", "float or base64"},
		{openai.Responses, `{"model":"glm-4.7-flash"}`, "input", "is missing"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":[]}`, "input", "empty list"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":[{"type":"secret"}]}`, "input[0].type", "other items"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":[{"role":"secret","content":"a"}]}`, "input[0].role", "must be user"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":[{"role":"user","content":[{"type":"input_file"}]}]}`, "input[0].content[0].type", "other parts"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":[{"type":"function_call_output","output":"a"}]}`, "input[0].call_id", "is missing"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":"a","previous_response_id":"resp_1"}`, "previous_response_id", "give the whole input"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":"a","tools":[{"type":"web_search"}]}`, "tools[0].type", "must be function"},
		{openai.Responses, `{"model":"glm-4.7-flash","input":"a","text":{"format":{"type":"secret"}}}`, "text.format.type", "must be text"},
		{openai.Chat, `{"model":"glm-4.7-flash"}`, "messages", "is missing"},
		{openai.Chat, `{"model":"glm-4.7-flash","messages":[]}`, "messages", "empty list"},
		{openai.Chat, `{"model":"glm-4.7-flash","messages":["secret"]}`, "messages", "list of objects"},
		{openai.Chat, `{"model":"glm-4.7-flash","messages":[{"content":"secret"}]}`, "messages[0].role", "is missing"},
		{openai.Chat, `{"model":"glm-4.7-flash","messages":[{"role":"secret","content":"a"}]}`, "messages[0].role", "the value is none of"},
		{openai.Chat, `{"model":"glm-4.7-flash","messages":[{"role":"user","content":[{"type":"input_audio"}]}]}`, "messages[0].content[0].type", "text or image_url"},
		{openai.Chat, `{"model":"glm-4.7-flash","messages":[{"role":"tool","content":"secret"}]}`, "messages[0].tool_call_id", "is missing"},
		{openai.Chat, chat(`"n":2`), "n", "must be 1"},
		{openai.Chat, chat(`"logprobs":true`), "logprobs", "not supported"},
		{openai.Chat, chat(`"logit_bias":{"50256":-100}`), "logit_bias", "not supported"},
		{openai.Chat, chat(`"functions":[{"name":"secret"}]`), "functions", "use tools"},
		{openai.Chat, chat(`"modalities":["text","audio"]`), "modalities", "text only"},
		{openai.Chat, chat(`"tools":[{"type":"custom"}]`), "tools[0].type", "must be function"},
		{openai.Chat, chat(`"tools":[{"type":"function","function":{}}]`), "tools[0].function.name", "is missing"},
		{openai.Chat, chat(`"tool_choice":"secret"`), "tool_choice", "must be auto"},
		{openai.Chat, chat(`"tool_choice":{"type":"allowed_tools"}`), "tool_choice.type", "must be function"},
		{openai.Chat, chat(`"response_format":{"type":"secret"}`), "response_format.type", "must be text"},
		{openai.Chat, chat(`"max_tokens":3,"max_completion_tokens":4`), "max_tokens", "differs"},
		{openai.Chat, chat(`"max_completion_tokens":0`), "max_completion_tokens", "at least 1"},
		{openai.Chat, chat(`"temperature":"secret"`), "temperature", "a number"},
		{openai.Chat, chat(`"temperature":7`), "temperature", "is out of range"},
		{openai.Chat, chat(`"reasoning_effort":"secret"`), "reasoning_effort", "none of low"},
		{openai.Chat, chat(`"stream":true`), "stream", "batch"},
		{openai.Images, `{"model":"flux-1-schnell"}`, "prompt", "is missing"},
		{openai.Images, `{"model":"flux-1-schnell","prompt":"a","size":"512x512"}`, "size", "always draws 1024x1024"},
		{openai.Images, `{"model":"flux-1-schnell","prompt":"a","size":"secret"}`, "size", "WIDTHxHEIGHT"},
		{openai.Images, `{"model":"flux-1-schnell","prompt":"a","n":4}`, "n", "must be 1"},
		{openai.Images, `{"model":"flux-1-schnell","prompt":"a","response_format":"url"}`, "response_format", "b64_json"},
		{openai.Images, `{"model":"flux-1-schnell","prompt":"a","quality":"hd"}`, "quality", "set steps"},
		{openai.Transcriptions, `{"model":"whisper"}`, "file", "is missing"},
		{openai.Transcriptions, `{"model":"whisper","url":"http://127.0.0.1/secret"}`, "url", "https://"},
		{openai.Transcriptions, `{"model":"whisper","file":"secret","response_format":"vtt"}`, "response_format", "json or verbose_json"},
		{openai.Transcriptions, `{"model":"whisper","file":"secret","temperature":0.5}`, "temperature", "not supported"},
		{"/v1/moderations", `{}`, "", "not supported; there are /v1/embeddings"},
	}
	for _, c := range cases {
		t.Run(c.body, func(t *testing.T) {
			_, err := openai.ParseLine(c.endpoint, []byte(c.body))
			refused, ok := errors.AsType[*openai.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, c.param, refused.Param)
			require.Contains(t, refused.Message, c.says)
			require.NotContains(t, string(refused.Body()), "secret")
			require.Contains(t, []int{400, 404}, refused.Status)
		})
	}
}

func TestAFormBecomesATranscription(t *testing.T) {
	r, err := openai.ParseForm(openai.Transcriptions, map[string][]string{
		"model": {"whisper-large-v3-turbo"}, "language": {"en"}, "prompt": {"42"}, "response_format": {"verbose_json"},
		"temperature": {"0"}, "timestamp_granularities[]": {"word", "segment"}, "chunking_strategy": {"auto"},
	})
	require.NoError(t, err)
	r.SetAudio("default/files/a.wav")
	require.Equal(t, tasks.Transcription{Audio: tasks.Audio{Key: "default/files/a.wav"}, Language: "en", InitialPrompt: "42"}, r.Payload)

	for param, form := range map[string]map[string][]string{
		"model":                   {"language": {"en"}},
		"response_format":         {"model": {"whisper"}, "response_format": {"secret"}},
		"stream":                  {"model": {"whisper"}, "stream": {"true"}},
		"timestamp_granularities": {"model": {"whisper"}, "timestamp_granularities[]": {"secret"}},
		"":                        {"model": {"whisper", "whisper"}},
	} {
		_, err := openai.ParseForm(openai.Transcriptions, form)
		refused, ok := errors.AsType[*openai.Error](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, param, refused.Param)
		require.NotContains(t, refused.Error(), "secret")
	}
}

func FuzzParse(f *testing.F) {
	for _, body := range []string{
		`{"model":"bge-m3","input":["a","b"],"encoding_format":"base64"}`,
		`{"model":"glm-4.7-flash","messages":[{"role":"user","content":[{"type":"text","text":"x"}],"tool_calls":[{"type":"function","function":{"name":"f"}}]}],"tools":[{"function":{"name":"f"}}]}`,
		`{"model":"flux-1-schnell","prompt":"a","size":"1024x1024"}`,
		`{"model":"whisper","file":"file-1","timestamp_granularities":["word"]}`,
	} {
		for i := range openai.Endpoints {
			f.Add(i, []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, endpoint int, body []byte) {
		name := openai.Endpoints[uint(endpoint)%uint(len(openai.Endpoints))]
		r, err := openai.Parse(name, body)
		if err != nil {
			refused, ok := errors.AsType[*openai.Error](err)
			require.True(t, ok, "%v", err)
			require.True(t, json.Valid(refused.Body()))
			require.Less(t, len(refused.Body()), 4096)
			return
		}
		payload, err := json.Marshal(r.Payload)
		require.NoError(t, err)
		if r.FileID == "" {
			_, err = tasks.Parse(r.Kind(), payload)
			require.NoError(t, err, "a payload that was accepted can be read again")
		}
		require.True(t, strings.HasPrefix(r.Model, "@"))
	})
}

func TestABodyOfManyValuesIsRefusedBeforeItIsDecoded(t *testing.T) {
	_, err := openai.Parse(openai.Chat, []byte(`{"model":"glm-4.7-flash","messages":[{}`+strings.Repeat(",{}", 60_000)+`]}`))
	var refused *openai.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 413, refused.Status)
}
