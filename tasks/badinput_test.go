package tasks_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// The catalogue of bad inputs lists invalid payloads. The names describe the problem; the
// error must contain want.
func TestTheCatalogueOfBadInputsIsRefusedAtTheDoor(t *testing.T) {
	const (
		text      = tasks.KindText
		image     = tasks.KindImage
		embedding = tasks.KindEmbedding
		translate = tasks.KindTranslation
		speech    = tasks.KindTranscription
		phoenix   = "@cf/leonardo/phoenix-1.0"
	)
	many := func(n int, one string) string {
		return `{"texts":[` + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + `]}`
	}
	cases := map[string]struct {
		kind    tasks.Kind
		payload string
		model   string
		want    string
	}{
		"empty body":               {text, "", "", "the payload is empty"},
		"white space alone":        {text, " \n\t", "", "the payload is empty"},
		"comma at the end":         {text, `{"prompt":"a",}`, "", "not valid JSON"},
		"single quotes":            {text, `{'prompt':'a'}`, "", "not valid JSON"},
		"comment":                  {text, `{"prompt":"a"} // x`, "", "not valid JSON"},
		"NaN":                      {text, `{"prompt":"a","temperature":NaN}`, "", "not valid JSON"},
		"Infinity":                 {text, `{"prompt":"a","temperature":Infinity}`, "", "not valid JSON"},
		"two objects":              {text, `{"prompt":"a"}{"prompt":"b"}`, "", "not valid JSON"},
		"key twice":                {text, `{"prompt":"a","prompt":"b"}`, "", "duplicate"},
		"key twice further in":     {text, `{"messages":[{"role":"user","role":"system","content":"a"}]}`, "", "duplicate"},
		"other case":               {text, `{"MODEL":"a","prompt":"b"}`, "", "MODEL: no such field"},
		"unknown field":            {text, `{"prompt":"a","max_token":5}`, "", "max_token: no such field; did you mean max_tokens?"},
		"unknown further in":       {speech, `{"audio":{"uri":"https://a.example/x"}}`, "", "audio.uri: no such field"},
		"result key of their own":  {embedding, `{"texts":["a"],"result_key":"x"}`, "", "result_key: no such field"},
		"byte FF":                  {text, "{\"prompt\":\"a\xff\"}", "", "not valid UTF-8"},
		"lone surrogate":           {text, `{"prompt":"\ud800"}`, "", "prompt"},
		"number too large":         {text, `{"prompt":"a","temperature":1e999}`, "", "temperature"},
		"whole number too large":   {text, `{"prompt":"a","max_tokens":9223372036854775808}`, "", "max_tokens"},
		"fraction for a whole":     {text, `{"prompt":"a","max_tokens":1.5}`, "", "max_tokens"},
		"text for a number":        {text, `{"prompt":"a","max_tokens":"12"}`, "", "max_tokens: wants a whole number, not a string"},
		"number for text":          {text, `{"prompt":12}`, "", "prompt: wants a string, not this number"},
		"list for an object":       {text, `[{"prompt":"a"}]`, "", "one task takes one object"},
		"text for an object":       {text, `"a"`, "", "not valid JSON"},
		"null":                     {text, `null`, "", "prompt: is missing"},
		"mark in the middle":       {text, "{\"prompt\":\"a\"}\xEF\xBB\xBF", "", "not valid JSON"},
		"deep nesting":             {text, `{"prompt":"a","tools":` + strings.Repeat("[", 20_000), "", "not valid JSON"},
		"NUL in a key":             {speech, `{"audio":{"key":"default/a\u0000b"}}`, "", "audio.key"},
		"NUL in a language":        {translate, `{"text":"a","target_lang":"e\u0000s"}`, "", "target_lang"},
		"NUL in a prompt":          {text, `{"prompt":"a\u0000b"}`, "", "prompt: has a NUL"},
		"nested 101 deep":          {text, `{"prompt":"a","stop":` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `}`, "", "stop: is nested more than 100 levels deep"},
		"into its own language":    {translate, `{"text":"a","source_lang":"es","target_lang":"ES"}`, "", "target_lang: is the same language"},
		"prompt of spaces":         {text, `{"prompt":" \t\n"}`, "", "prompt: is empty"},
		"prompt and messages":      {text, `{"prompt":"a","messages":[{"role":"user","content":"b"}]}`, "", "messages: cannot be given together with prompt"},
		"no messages":              {text, `{"messages":[]}`, "", "prompt: is missing"},
		"message without role":     {text, `{"messages":[{"content":"a"}]}`, "", "messages[0].role: is missing"},
		"max_tokens 0":             {text, `{"prompt":"a","max_tokens":0}`, "", "max_tokens: 0 is out of range"},
		"max_tokens -1":            {text, `{"prompt":"a","max_tokens":-1}`, "", "max_tokens: -1 is out of range"},
		"max_tokens 1e9":           {text, `{"prompt":"a","max_tokens":1000000000}`, "", "max_tokens: 1000000000 is out of range"},
		"temperature -0.1":         {text, `{"prompt":"a","temperature":-0.1}`, "", "temperature: -0.1 is out of range, 0 to 5"},
		"temperature 5.1":          {text, `{"prompt":"a","temperature":5.1}`, "", "temperature: 5.1 is out of range, 0 to 5"},
		"tool without name":        {text, `{"prompt":"a","tools":[{"type":"function","function":{"description":"d"}}]}`, "", "tools[0]"},
		"parameters no schema":     {text, `{"prompt":"a","tools":[{"name":"f","parameters":"x"}]}`, "", "tools[0].parameters: wants a JSON schema"},
		"width 0 of a model":       {image, `{"prompt":"a","width":-1}`, phoenix, "width: -1 is out of range"},
		"width 100000":             {image, `{"prompt":"a","width":100000}`, phoenix, "width: 100000 is out of range"},
		"width 513.5":              {image, `{"prompt":"a","width":513.5}`, phoenix, "width: wants a whole number"},
		"steps 1000":               {image, `{"prompt":"a","steps":1000}`, phoenix, "steps: 1000 is out of range, 1 to 50"},
		"steps 0":                  {image, `{"prompt":"a","steps":0}`, "", "steps: 0 is out of range, 1 to 8"},
		"guidance out of bounds":   {image, `{"prompt":"a","guidance":11}`, phoenix, "guidance: 11 is out of range, 2 to 10"},
		"width the model lacks":    {image, `{"prompt":"a","width":512}`, "", "width: @cf/black-forest-labs/flux-1-schnell does not take it"},
		"image prompt too long":    {image, `{"prompt":"` + strings.Repeat("a", 2049) + `"}`, "", "prompt: has 2049 characters"},
		"language xx":              {translate, `{"text":"a","target_lang":"xx"}`, "", `target_lang: @cf/meta/m2m100-1.2b does not translate into "xx"; it knows`},
		"language english":         {translate, `{"text":"a","target_lang":"english"}`, "", "target_lang"},
		"language zh-Hant":         {translate, `{"text":"a","target_lang":"zh-Hant"}`, "", "target_lang"},
		"language empty":           {translate, `{"text":"a","target_lang":""}`, "", "target_lang: is missing"},
		"language in two runes":    {translate, `{"text":"a","target_lang":"e\u0301n"}`, "", "target_lang"},
		"source not known":         {translate, `{"text":"a","target_lang":"es","source_lang":"xx"}`, "", "source_lang"},
		"translation of nothing":   {translate, `{"text":"","target_lang":"es"}`, "", "text: is empty"},
		"translation of 200 KB":    {translate, `{"text":"` + strings.Repeat("a", 200<<10) + `","target_lang":"es"}`, "", "cut it by paragraph"},
		"no texts":                 {embedding, `{"texts":[]}`, "", "texts: is empty"},
		"too many texts":           {embedding, many(1001, `"a"`), "", "texts: has 1001 texts, more than 1000"},
		"one text empty":           {embedding, `{"texts":["a","","c"]}`, "", "texts[1]: is empty"},
		"one text of 1 MB":         {embedding, `{"texts":["a","` + strings.Repeat("a", 1<<20) + `"]}`, "", "texts[1]: has 1048576 bytes"},
		"text for texts":           {embedding, `{"texts":"a"}`, "", "texts: wants a list, not a string"},
		"model empty of spaces":    {text, `{"prompt":"a"}`, "  ", "model: \"  \" is no model id"},
		"model a path":             {text, `{"prompt":"a"}`, "../..", "model:"},
		"model a path of the API":  {text, `{"prompt":"a"}`, "@cf/../../accounts", "model:"},
		"model upwards":            {text, `{"prompt":"a"}`, "@cf/meta/..", "model:"},
		"model escaped":            {text, `{"prompt":"a"}`, "@cf/%2e%2e/x", "model:"},
		"model with a query":       {text, `{"prompt":"a"}`, "@cf/meta/llama?x=", "model:"},
		"model of 300 characters":  {text, `{"prompt":"a"}`, "@cf/meta/" + strings.Repeat("a", 300), "model:"},
		"model of another kind":    {text, `{"prompt":"a"}`, "@cf/baai/bge-m3", "model: @cf/baai/bge-m3 is for embedding tasks, not for text"},
		"model unknown":            {text, `{"prompt":"a"}`, "@cf/meta/llama-99", "model: @cf/meta/llama-99 is unknown"},
		"model withdrawn":          {text, `{"prompt":"a"}`, "@cf/microsoft/phi-2", "model: @cf/microsoft/phi-2 was withdrawn on 2026-05-30; use @cf/zai-org/glm-4.7-flash"},
		"no audio":                 {speech, `{}`, "", "audio: needs exactly one of key, url and path"},
		"audio twice":              {speech, `{"audio":{"key":"default/a","url":"https://a.example/b"}}`, "", "audio: needs exactly one"},
		"audio key of another":     {speech, `{"audio":{"key":"other/files/a"}}`, "", "audio.key: must begin with default/"},
		"audio key of 1025 bytes":  {speech, `{"audio":{"key":"default/` + strings.Repeat("a", 1017) + `"}}`, "", "audio.key"},
		"audio key upwards":        {speech, `{"audio":{"key":"default/../other/a"}}`, "", "audio.key"},
		"audio key with two ends":  {speech, `{"audio":{"key":"default//a"}}`, "", "audio.key"},
		"local file over the wire": {speech, `{"audio":{"path":"/etc/passwd"}}`, "", "only the command line uploads files"},
	}
	for _, address := range []string{
		"http://a.example/x", "ftp://a.example/x", "file:///etc/passwd", "gopher://a.example/", "data:audio/wav;base64,AA", "unix:/run/x", "//a.example/x", "a.example/x",
		"https://127.0.0.1/x", "https://localhost/x", "https://LOCALHOST./x", "https://a.localhost/x", "https://0/x", "https://0.0.0.0/x",
		"https://2130706433/x", "https://0x7f000001/x", "https://0x7f.1/x", "https://0177.0.0.1/x", "https://127.1/x", "https://127.0.0.018/x", "https://intranet/x",
		"https://[::1]/x", "https://[::]/x", "https://[::1%25lo]/x", "https://[::ffff:127.0.0.1]/x", "https://[::ffff:7f00:1]/x", "https://[0:0:0:0:0:ffff:127.0.0.1]/x",
		"https://[::127.0.0.1]/x", "https://[64:ff9b::7f00:1]/x", "https://[64:ff9b:1::1]/x", "https://[2002:7f00:1::]/x", "https://[2001::1]/x", "https://[fec0::1]/x",
		"https://100.64.0.1/x", "https://192.0.0.1/x", "https://198.18.0.1/x", "https://192.88.99.1/x", "https://240.0.0.1/x", "https://169.254.169.254/x",
		"https://a.example:22/x", "https://a.example:25/x", "https://a.example:6379/x", "https://a.example:0/x", "https://a.example:65536/x", "https://a.example:018080/x",
		"https://user:secret@a.example/x", "https:///x", "https://a.example/\u0000",
	} {
		cases["address "+address] = struct {
			kind                 tasks.Kind
			payload, model, want string
		}{speech, `{"audio":{"url":"` + strings.ReplaceAll(address, "\u0000", `\u0000`) + `"}}`, "", "audio.url: "}
	}
	server, store := redistest.Memory(t), storage.NewMemory()
	client := tasks.NewClient(tasks.Config{Redis: server, Store: store})
	for name, c := range cases {
		payload, err := tasks.Parse(c.kind, []byte(c.payload))
		if err == nil {
			_, err = client.Enqueue(t.Context(), payload, tasks.WithModel(c.model))
		}
		var problems tasks.ValidationError
		require.ErrorAs(t, err, &problems, name)
		require.ErrorContains(t, err, c.want, name)
		require.NotContains(t, err.Error(), "secret", name)
		require.Less(t, len(err.Error()), 1500, "%s: whole inputs are not echoed", name)
		require.NotContains(t, err.Error(), "\x00", name)
	}
	require.Zero(t, server.DBSize(t.Context()).Val(), "nothing is queued")
	for info, err := range store.List(t.Context(), "", "") {
		require.NoError(t, err)
		require.Fail(t, "nothing is in the bucket", info.Key)
	}
}

func TestBadOptionsAreRefusedByName(t *testing.T) {
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t)})
	for name, c := range map[string]struct {
		option tasks.Option
		want   string
	}{
		"two years ahead":         {tasks.WithDelay(2 * 365 * 24 * time.Hour), "start: is more than 90 days ahead"},
		"deadline has passed":     {tasks.WithTimeToLive(-time.Second), "deadline: has passed"},
		"a lane that is none":     {tasks.WithLane("text:{x}\n"), "lane:"},
		"key over two lines":      {tasks.WithIdempotencyKey("a\nb"), "idempotency_key:"},
		"key that turns around":   {tasks.WithIdempotencyKey("a\u202eb"), "idempotency_key:"},
		"key of no width":         {tasks.WithIdempotencyKey("a\u200bb"), "idempotency_key:"},
		"key not UTF-8":           {tasks.WithIdempotencyKey("\xff"), "idempotency_key:"},
		"key of 256 bytes":        {tasks.WithIdempotencyKey(strings.Repeat("k", 256)), "idempotency_key:"},
		"metadata without a name": {tasks.WithMetadata(map[string]string{"": "x"}), "metadata."},
		"metadata too long":       {tasks.WithMetadata(map[string]string{"k": strings.Repeat("v", 513)}), "metadata.k:"},
		"webhook without TLS":     {tasks.WithWebhook("http://shop.example/"), "webhook: must begin with https://"},
		"webhook to an address":   {tasks.WithWebhook("https://10.0.0.1/"), "webhook: must name a public host"},
		"webhook of 3 KB":         {tasks.WithWebhook("https://shop.example/" + strings.Repeat("x", 3000)), "webhook: has 3021 bytes"},
		"less than nothing":       {tasks.WithMaxNeurons(-1), "max_neurons: -1 is out of range"},
		"no number of neurons":    {tasks.WithMaxNeurons(math.NaN()), "max_neurons: NaN is out of range"},
		"a bound without effect":  {tasks.WithMaxNeurons(1), "max_neurons: is 1, and the task may cost "},
		"metadata with ends":      {tasks.WithMetadata(map[string]string{"k": "a\r\nSet-Cookie: x"}), "metadata.k:"},
	} {
		_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "x"}, c.option)
		require.ErrorContains(t, err, c.want, name)
	}
}

// Unusual but valid inputs.
func TestOddInputsThatAreWellPass(t *testing.T) {
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: storage.NewMemory()})
	for name, c := range map[string]struct {
		kind    tasks.Kind
		payload string
	}{
		"mark at the start": {tasks.KindText, "\xEF\xBB\xBF{\"prompt\":\"a\"}"},

		"text right to left":      {tasks.KindText, `{"prompt":"\u202eabc"}`},
		"language in capitals":    {tasks.KindTranslation, `{"text":"a","target_lang":"ES"}`},
		"a line of 70 KB":         {tasks.KindText, `{"prompt":"` + strings.Repeat("a", 70<<10) + `"}`},
		"a key with odd letters":  {tasks.KindTranscription, `{"audio":{"key":"default/files/a?versionId=1#b"}}`},
		"an address at port 443":  {tasks.KindTranscription, `{"audio":{"url":"https://a.example:443/x"}}`},
		"a name that looks a hex": {tasks.KindTranscription, `{"audio":{"url":"https://cafe.example/x"}}`},
	} {
		payload, err := tasks.Parse(c.kind, []byte(c.payload))
		require.NoError(t, err, name)
		_, err = client.Enqueue(t.Context(), payload)
		require.NoError(t, err, name)
	}
}

// The API may answer for a withdrawn model with its successor, so an explicit request may
// try.
func TestAWithdrawnModelPassesWhereUnknownOnesDo(t *testing.T) {
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: storage.NewMemory(), AllowUnknownModel: true})
	_, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "a"}, tasks.WithModel("@cf/moonshotai/kimi-k2.5"))
	require.NoError(t, err)
	_, err = client.Enqueue(t.Context(), tasks.Translation{Text: "a", TargetLang: "es"}, tasks.WithModel("@cf/moonshotai/kimi-k2.5"))
	require.ErrorContains(t, err, "is for text tasks, not for translation")
}
