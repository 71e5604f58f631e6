package tasks_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestBadPayloadsAreRefusedByField(t *testing.T) {
	long := strings.Repeat("x", 101<<10)
	cases := []struct {
		kind    tasks.Kind
		payload string
		want    []string
	}{
		{"poem", `{}`, []string{"kind: \"poem\" is none of transcription"}},
		{"text", ``, []string{"the payload is empty"}},
		{"text", `{"prompt":"x",}`, []string{"not valid JSON"}},
		{"text", `{'prompt':'x'}`, []string{"not valid JSON"}},
		{"text", `[{"prompt":"x"}]`, []string{"one object"}},
		{"text", `{"prompt":"x"} {}`, []string{"not valid JSON"}},
		{"text", `{"prompt":"x","prompt":"y"}`, []string{"duplicate"}},
		{"text", "{\"prompt\":\"\xff\"}", []string{"UTF-8"}},
		{"text", `{"prompt":"\ud800"}`, []string{"prompt"}},
		{"text", `{"promt":"x"}`, []string{"promt: no such field; did you mean prompt?"}},
		{"text", `{"PROMPT":"x"}`, []string{"PROMPT: no such field; did you mean prompt?"}},
		{"text", `{"prompt":7,"max_tokens":"12","tools":[{"nam":"f"}]}`, []string{"prompt: wants a string", "max_tokens: wants a whole number", "tools[0].nam: no such field"}},
		{"text", `{"prompt":" "}`, []string{"prompt: is empty"}},
		{"text", `{}`, []string{"prompt: is missing"}},
		{"text", `{"prompt":"x","messages":[{"role":"user","content":"y"}]}`, []string{"messages: cannot be given together"}},
		{"text", `{"messages":[{"role":"robot"}]}`, []string{"messages[0].role", "messages[0].content"}},
		{"text", `{"prompt":"x","temperature":5.1,"top_p":0,"top_k":51,"seed":0,"max_tokens":0}`, []string{"temperature", "top_p", "top_k", "seed", "max_tokens"}},
		{"text", `{"prompt":"x","max_tokens":1.5}`, []string{"max_tokens"}},
		{"text", `{"prompt":"x","temperature":1e999}`, []string{"temperature"}},
		{"text", `{"prompt":"x","response_format":{"type":"json_schema"}}`, []string{"response_format.json_schema"}},
		{"embedding", `{"texts":[]}`, []string{"texts: is empty"}},
		{"embedding", `{"texts":["a","",7]}`, []string{"texts[2]: wants a string"}},
		{"embedding", `{"texts":["a",""]}`, []string{"texts[1]: is empty"}},
		{"embedding", `{"texts":"a"}`, []string{"texts: wants a list"}},
		{"embedding", `{"texts":["a"],"pooling":"max"}`, []string{"pooling"}},
		{"translation", `{"text":"","source_lang":"en"}`, []string{"text: is empty", "target_lang: is missing"}},
		{"translation", `{"text":"` + long + `","target_lang":"es"}`, []string{"cut it by paragraph"}},
		{"image", `{"prompt":"  "}`, []string{"prompt: is empty"}},
		{"image", `{"prompt":"x","width":513.5}`, []string{"width"}},
		{"transcription", `{}`, []string{"audio: needs exactly one"}},
		{"transcription", `{"audio":{"key":"k","url":"https://x.example/a"}}`, []string{"audio: needs exactly one"}},
		{"transcription", `{"audio":{"file":"k"}}`, []string{"audio.file: no such field"}},
		{"transcription", `{"audio":{"url":"http://x.example/a.mp3"}}`, []string{"audio.url: must begin with https://"}},
		{"transcription", `{"audio":{"url":"https://127.0.0.1/a"}}`, []string{"audio.url: must name a public host"}},
		{"transcription", `{"audio":{"url":"https://[::1]/a"}}`, []string{"audio.url: must name a public host"}},
		{"transcription", `{"audio":{"url":"https://LOCALHOST./a"}}`, []string{"audio.url: must name a public host"}},
		{"transcription", `{"audio":{"url":"https://2130706433/a"}}`, []string{"audio.url: must name a public host"}},
		{"transcription", `{"audio":{"url":"https://u:p@x.example:8443/a"}}`, []string{"user name", "port 443"}},
		{"transcription", `{"audio":{"key":"k"},"task":"sing","language":"e\u0301n"}`, []string{"task", "language"}},
	}
	for _, c := range cases {
		_, err := tasks.Parse(c.kind, []byte(c.payload))
		var problems tasks.ValidationError
		require.ErrorAs(t, err, &problems, "%s %.80s: %v", c.kind, c.payload, err)
		for _, w := range c.want {
			require.ErrorContains(t, err, w, "%s %.80s", c.kind, c.payload)
		}
		require.Less(t, len(err.Error()), 2000)
	}
}

func TestGoodPayloadsPass(t *testing.T) {
	for payload, kind := range map[string]tasks.Kind{
		"\xEF\xBB\xBF{\"prompt\":\"after a mark\"}":                               tasks.KindText,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}]}`:   tasks.KindText,
		`{"messages":[{"role":"assistant","content":null,"tool_calls":[{}]}]}`:    tasks.KindText,
		`{"prompt":"x","tools":[{"name":"f","description":"d","parameters":{}}]}`: tasks.KindText,
		`{"audio":{"url":"https://media.example.org/a.mp3"}}`:                     tasks.KindTranscription,
	} {
		_, err := tasks.Parse(kind, []byte(payload))
		require.NoError(t, err, payload)
	}
}

func TestWhatDependsOnTheModelIsRefusedAtTheDoor(t *testing.T) {
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t)})
	nine, guidance, seed := 9, 7.5, int64(1)
	cases := []struct {
		payload tasks.Payload
		options []tasks.Option
		want    []string
	}{
		{tasks.Text{Prompt: "x"}, []tasks.Option{tasks.WithModel("@cf/meta/llama-3.1-8b-instruct")}, []string{"withdrawn on 2026-05-30; use @cf/zai-org/glm-4.7-flash"}},
		{tasks.Text{Prompt: "x"}, []tasks.Option{tasks.WithModel("@cf/zai-org/glm-4.7-flsh")}, []string{"did you mean @cf/zai-org/glm-4.7-flash"}},
		{tasks.Text{Prompt: "x"}, []tasks.Option{tasks.WithModel("@cf/baai/bge-m3")}, []string{"is for embedding tasks"}},
		{tasks.Text{Prompt: "x"}, []tasks.Option{tasks.WithModel("@cf/../../accounts")}, []string{"no model id"}},
		{tasks.Text{Prompt: "x"}, []tasks.Option{tasks.WithModel("@cf/myshell-ai/melotts")}, []string{"none of the kinds"}},
		{tasks.Image{Prompt: "x", Width: 512, Steps: &nine, Guidance: &guidance, Seed: &seed, NegativePrompt: "y"}, nil,
			[]string{"width: @cf/black-forest-labs/flux-1-schnell does not take it", "steps: 9 is out of range", "guidance", "seed", "negative_prompt"}},
		{tasks.Image{Prompt: "x", Width: 100_000}, []tasks.Option{tasks.WithModel("@cf/leonardo/phoenix-1.0")}, []string{"width: 100000 is out of range"}},
		{tasks.Translation{Text: "x", TargetLang: "xx"}, nil, []string{"target_lang"}},
		{tasks.Translation{Text: "x", TargetLang: "zh-Hant", SourceLang: "klingon"}, nil, []string{"target_lang", "source_lang"}},
		{tasks.Transcription{Audio: tasks.Audio{Key: "default/files/x"}, Language: "de"}, []tasks.Option{tasks.WithModel("@cf/openai/whisper")}, []string{"language"}},
		{tasks.Transcription{Audio: tasks.Audio{Key: "other/files/x"}}, nil, []string{"audio.key: must begin with default/"}},
		{tasks.Transcription{Audio: tasks.Audio{Path: "call.mp3"}}, nil, []string{"only the command line uploads"}},
		{tasks.Embedding{Texts: []string{"x"}, Pooling: "cls"}, []tasks.Option{tasks.WithModel("@cf/baai/bge-m3")}, []string{"pooling"}},
		{tasks.Embedding{Texts: make([]string, 1001)}, nil, []string{"more than 1000"}},
		{tasks.Text{Prompt: " "}, []tasks.Option{tasks.WithLane("fast"), tasks.WithTimeToLive(-1), tasks.WithDelay(1e18), tasks.WithIdempotencyKey("a\nb"),
			tasks.WithMetadata(map[string]string{"": "x", "k": "a\x00b"})}, []string{"prompt", "lane", "deadline", "start", "idempotency_key", "metadata"}},
	}
	for _, c := range cases {
		_, err := client.Enqueue(t.Context(), c.payload, c.options...)
		for _, w := range c.want {
			require.ErrorContains(t, err, w)
		}
	}
	accepted, err := client.Enqueue(t.Context(), tasks.Translation{Text: "x", TargetLang: "ES"})
	require.NoError(t, err, "case is folded")
	require.Equal(t, "@cf/meta/m2m100-1.2b", accepted.Model)
}

func FuzzParse(f *testing.F) {
	for _, s := range tasks.Specs {
		f.Add(string(s.Kind), []byte(`{"prompt":"x","texts":["a"],"text":"b","target_lang":"es","audio":{"key":"default/x"}}`))
	}
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		p, err := tasks.Parse(tasks.Kind(kind), data)
		var problems tasks.ValidationError // returned together with their payload
		if err == nil && p == nil || err != nil && p != nil && !errors.As(err, &problems) {
			t.Fatalf("%q gives %v, %v", data, p, err)
		}
	})
}
