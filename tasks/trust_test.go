package tasks_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func wellFormed() tasks.Task {
	return tasks.Task{
		Version: 1, ID: "t_1", Tenant: "default", Kind: tasks.KindText, Lane: tasks.Interactive, Model: "@cf/zai-org/glm-4.7-flash",
		Payload: json.RawMessage(`{"prompt":"hi"}`), Deadline: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// Without the check, a client with write access to Redis could make the worker call any
// path of the API with its token, or use any tenant's objects.
func TestATaskFromRedisIsCheckedAsTheDoorDoes(t *testing.T) {
	decode := func(change func(*tasks.Task)) (tasks.Task, error) {
		task := wellFormed()
		change(&task)
		document, err := json.Marshal(task)
		require.NoError(t, err)
		return tasks.Decode(document)
	}
	for name, change := range map[string]func(*tasks.Task){
		"as it is":                    func(*tasks.Task) {},
		"a model no catalogue has":    func(t *tasks.Task) { t.Model = "@hf/someone/Some_Model-1.0" },
		"without a lane":              func(t *tasks.Task) { t.Lane = "" },
		"an input of its own":         func(t *tasks.Task) { t.Payload, t.InputKey = nil, "default/tasks/t_1/input.abc.json" },
		"an input of an old producer": func(t *tasks.Task) { t.Payload, t.InputKey = nil, "default/tasks/t_1/input.json" },
		"another tenant":              func(t *tasks.Task) { t.Tenant = "team-1_a" },
	} {
		_, err := decode(change)
		require.NoError(t, err, name)
	}
	for name, change := range map[string]func(*tasks.Task){
		"a path as its model":         func(t *tasks.Task) { t.Model = "@cf/../../accounts/x/tokens" },
		"a model that goes upwards":   func(t *tasks.Task) { t.Model = "@cf/meta/.." },
		"a query in its model":        func(t *tasks.Task) { t.Model = "@cf/meta/llama?x=1" },
		"a model that is an address":  func(t *tasks.Task) { t.Model = "https://evil.example/x" },
		"a long model":                func(t *tasks.Task) { t.Model = "@cf/meta/" + strings.Repeat("a", 300) },
		"a tenant with a slash":       func(t *tasks.Task) { t.Tenant = "default/tasks" },
		"a tenant that goes upwards":  func(t *tasks.Task) { t.Tenant = ".." },
		"a tenant in capitals":        func(t *tasks.Task) { t.Tenant = "Team" },
		"a tenant of 64 characters":   func(t *tasks.Task) { t.Tenant = strings.Repeat("a", 64) },
		"no tenant":                   func(t *tasks.Task) { t.Tenant = "" },
		"an id that goes upwards":     func(t *tasks.Task) { t.ID = "../t_2" },
		"an id with a brace":          func(t *tasks.Task) { t.ID = "t_1}x" },
		"no id":                       func(t *tasks.Task) { t.ID = "" },
		"the input of another task":   func(t *tasks.Task) { t.InputKey = "default/tasks/t_2/input.abc.json" },
		"the input of another tenant": func(t *tasks.Task) { t.InputKey = "other/tasks/t_1/input.abc.json" },
		"an input that goes upwards":  func(t *tasks.Task) { t.InputKey = "default/tasks/t_1/input./../../x" },
		"a result as its input":       func(t *tasks.Task) { t.InputKey = "default/tasks/t_1/result.json" },
		"no deadline":                 func(t *tasks.Task) { t.Deadline = time.Time{} },
		"a lane that is none":         func(t *tasks.Task) { t.Lane = "express" },
		"a version that never was":    func(t *tasks.Task) { t.Version = 0 },
	} {
		_, err := decode(change)
		require.ErrorContains(t, err, "decode the task: ", name)
		require.NotErrorIs(t, err, tasks.ErrNewerTask, name)
	}
}

// Producers may be upgraded before workers.
func TestATaskOfANewerProducerIsToldFromADamagedOne(t *testing.T) {
	for name, document := range map[string]string{
		"a newer version":              `{"v":2,"id":"t_1","tenant":"default","kind":"text","deadline":"2030-01-01T00:00:00Z","model":{"name":"x"}}`,
		"a newer version, other types": `{"v":3,"id":"t_1","tenant":"default","kind":7,"lane":["a"],"deadline":"2030-01-01T00:00:00Z"}`,
		"an unknown kind":              `{"v":1,"id":"t_1","tenant":"default","kind":"speech","model":"@cf/x/y","deadline":"2030-01-01T00:00:00Z"}`,
	} {
		task, err := tasks.Decode([]byte(document))
		require.ErrorIs(t, err, tasks.ErrNewerTask, name)
		require.Equal(t, "t_1", task.ID, name)
		require.Equal(t, "default", task.Tenant, name)
		require.Equal(t, 2030, task.Deadline.Year(), name)
	}
	for name, document := range map[string]string{
		"no JSON":                  `{"v":2`,
		"newer, without an id":     `{"v":2,"tenant":"default","deadline":"2030-01-01T00:00:00Z"}`,
		"newer, another's tenant":  `{"v":2,"id":"t_1","tenant":"../x","deadline":"2030-01-01T00:00:00Z"}`,
		"newer, without a bound":   `{"v":2,"id":"t_1","tenant":"default"}`,
		"newer, with a bad bound":  `{"v":2,"id":"t_1","tenant":"default","deadline":"soon"}`,
		"an old one of other type": `{"v":1,"id":7}`,
	} {
		_, err := tasks.Decode([]byte(document))
		require.Error(t, err, name)
		require.NotErrorIs(t, err, tasks.ErrNewerTask, name)
	}
}

// asynq cannot read a message with invalid UTF-8, so its task would never end.
func TestAMessageWithABrokenByteIsDamaged(t *testing.T) {
	payload, err := json.Marshal(wellFormed())
	require.NoError(t, err)
	field := func(number byte, value string) string {
		return string([]byte{number<<3 | 2, byte(len(value))}) + value
	}
	whole := string([]byte{2<<3 | 2, byte(len(payload)&0x7f | 0x80), byte(len(payload) >> 7)}) + string(payload)
	task, _, err := tasks.DecodeMessage([]byte(field(1, "text") + whole + field(3, "t_1") + field(4, "text:interactive")))
	require.NoError(t, err)
	require.Equal(t, "t_1", task.ID)
	for number := range byte(15) {
		if number == 0 || number == 2 {
			continue
		}
		_, payload, err := tasks.DecodeMessage([]byte(whole + field(number, "a\xff")))
		require.ErrorContains(t, err, "damaged", number)
		require.Nil(t, payload, number)
	}
	for name, message := range map[string]string{
		"no payload": field(1, "text"), "half a field": whole[:len(whole)-1], "half a tag": whole + "\xff", "nothing": "",
		"a length beyond the end": "\x12\x7fabc",
	} {
		_, _, err := tasks.DecodeMessage([]byte(message))
		require.ErrorContains(t, err, "damaged", name)
	}
	_, payload, err = tasks.DecodeMessage([]byte(field(2, `{"v":1}`)))
	require.Error(t, err)
	require.NotNil(t, payload, "the handler ends what is wrong with the task itself")
}

func TestAClientThatIsNotConfiguredRefusesAtOnce(t *testing.T) {
	var none *redis.Client
	for name, c := range map[string]struct {
		cfg  tasks.Config
		want string
	}{
		"no Redis":          {tasks.Config{}, "Redis is missing"},
		"a nil client":      {tasks.Config{Redis: none}, "Redis is missing"},
		"a tenant's path":   {tasks.Config{Redis: redistest.Memory(t), Tenant: "team/one"}, `Tenant "team/one" is not valid: it must match ^[a-z0-9][a-z0-9_-]{0,62}$`},
		"an unknown accept": {tasks.Config{Redis: redistest.Memory(t), Durability: "memory"}, `Accept "memory" is not valid`},
		"store without one": {tasks.Config{Redis: redistest.Memory(t), Durability: tasks.InStore}, "Accept is store, but Store is missing"},
	} {
		require.ErrorContains(t, c.cfg.Validate(), c.want, name)
		client, ctx := tasks.NewClient(c.cfg), t.Context()
		outcomes := client.EnqueueMany(ctx, []tasks.Request{{Payload: tasks.Text{Prompt: "hi"}}, {Payload: tasks.Text{Prompt: "hi"}}})
		require.Len(t, outcomes, 2, name)
		require.ErrorContains(t, outcomes[0].Err, c.want, name)
		require.ErrorContains(t, outcomes[1].Err, c.want, name)
		_, waited := client.Wait(ctx, "t_1")
		_, result := client.Result(ctx, "t_1")
		_, get := client.Get(ctx, "t_1")
		_, list := client.List(ctx, tasks.ListFilter{})
		_, recovered := client.Recover(ctx, tasks.Recovery{})
		_, retried := client.Retry(ctx, "t_1")
		var dead error
		for _, err := range client.DeadLetters(ctx, tasks.DeadLetterFilter{}) {
			dead = err
		}
		all := []error{waited, result, get, list, recovered, retried, dead, client.Cancel(ctx, "t_1"), client.Drop(ctx, "t_1"), client.Requeue(ctx, wellFormed())}
		for i, err := range all {
			require.ErrorContains(t, err, c.want, "%s, method %d", name, i)
		}
	}
	require.NoError(t, tasks.Config{Redis: redistest.Memory(t), Store: storage.NewMemory(), Durability: tasks.InStore, Tenant: "a"}.Validate())
}

// shadow is a payload type that is not one of ours.
type shadow struct{ tasks.Text }

func TestAPointerToAPayloadIsAPayload(t *testing.T) {
	rdb := redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	yes := true
	for _, p := range []tasks.Payload{
		&tasks.Text{Prompt: "hi"}, &tasks.Image{Prompt: "a mill"}, &tasks.Translation{Text: "hi", TargetLang: "ES"}, &tasks.Embedding{Texts: []string{"a"}},
		&tasks.Transcription{Audio: tasks.Audio{Key: "default/a"}, VADFilter: &yes},
	} {
		_, err := client.Enqueue(t.Context(), p)
		require.NoError(t, err, "%T", p)
	}
	a, err := client.Enqueue(t.Context(), &tasks.Text{Prompt: "one"}, tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	b, err := client.Enqueue(t.Context(), tasks.Text{Prompt: "one"}, tasks.WithIdempotencyKey("k"))
	require.NoError(t, err)
	require.Equal(t, a.ID, b.ID)
	_, err = client.Enqueue(t.Context(), &tasks.Transcription{Audio: tasks.Audio{Key: "other/a"}})
	require.ErrorContains(t, err, "audio.key: must begin with default/", "what holds for a payload holds for a pointer")

	var problems tasks.ValidationError
	for name, p := range map[string]tasks.Payload{"nil": nil, "a nil pointer": (*tasks.Text)(nil), "a type of another package": shadow{tasks.Text{Prompt: "hi"}}} {
		_, err = client.Enqueue(t.Context(), p)
		require.ErrorAs(t, err, &problems, name)
		require.Equal(t, "payload", problems[0].Field, name)
	}
}

func TestBrokenTextIsRefusedAtEveryDoor(t *testing.T) {
	deep := jsontext.Value(strings.Repeat("[", 101) + strings.Repeat("]", 101))
	shallow := jsontext.Value(strings.Repeat(`{"a":`, 90) + "1" + strings.Repeat("}", 90))
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), Store: storage.NewMemory()})
	for want, p := range map[string]tasks.Payload{
		"prompt: is not valid UTF-8 at byte 1":                              tasks.Text{Prompt: "a\xff"},
		"prompt: has a NUL at byte 1":                                       tasks.Image{Prompt: "a\x00b"},
		"negative_prompt: has a NUL at byte 0":                              tasks.Image{Prompt: "a", NegativePrompt: "\x00"},
		"texts[1]: is not valid UTF-8 at byte 0":                            tasks.Embedding{Texts: []string{"a", "\xc3"}},
		"text: is not valid UTF-8 at byte 2":                                tasks.Translation{Text: "ab\xed\xa0\x80", TargetLang: "es"},
		"initial_prompt: has a NUL at byte 0":                               tasks.Transcription{Audio: tasks.Audio{Key: "default/a"}, InitialPrompt: "\x00"},
		"messages[0].name: is not valid UTF-8 at byte 0":                    tasks.Text{Messages: []tasks.Message{{Role: "user", Content: jsontext.Value(`"a"`), Name: "\xff"}}},
		"messages[0].content: is not valid JSON":                            tasks.Text{Messages: []tasks.Message{{Role: "user", Content: jsontext.Value("\"a\xff\"")}}},
		"messages[0].content: has a NUL":                                    tasks.Text{Messages: []tasks.Message{{Role: "user", Content: jsontext.Value(`[{"type":"text","text":"a\u0000"}]`)}}},
		"tools[0].function.description: has a NUL at byte 0":                tasks.Text{Prompt: "a", Tools: []tasks.Tool{{Function: &tasks.Function{Name: "f", Description: "\x00"}}}},
		"tools[0].parameters: is not valid JSON":                            tasks.Text{Prompt: "a", Tools: []tasks.Tool{{Name: "f", Parameters: jsontext.Value(`{"a":1} {}`)}}},
		"tools[0].function.parameters: is nested more than 100 levels deep": tasks.Text{Prompt: "a", Tools: []tasks.Tool{{Function: &tasks.Function{Name: "f", Parameters: deep}}}},
		"response_format.json_schema: has a NUL":                            tasks.Text{Prompt: "a", ResponseFormat: &tasks.Format{Type: "json_schema", JSONSchema: jsontext.Value(`{"a\u0000":1}`)}},
		"stop: is nested more than 100 levels deep":                         tasks.Text{Prompt: "a", Stop: deep},
		"response_format.type: is not valid UTF-8":                          tasks.Text{Prompt: "a", ResponseFormat: &tasks.Format{Type: "\xff"}},
	} {
		_, err := client.Enqueue(t.Context(), p)
		var problems tasks.ValidationError
		require.ErrorAs(t, err, &problems, want)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "\x00")
	}
	for kind, payload := range map[tasks.Kind]string{
		tasks.KindText:        `{"prompt":"a\u0000b"}`,
		tasks.KindEmbedding:   `{"texts":["a","\u0000"]}`,
		tasks.KindTranslation: `{"text":"a\u0000","target_lang":"es"}`,
		tasks.KindImage:       `{"prompt":"\u0000a"}`,
	} {
		_, err := tasks.Parse(kind, []byte(payload))
		require.ErrorContains(t, err, "has a NUL", kind)
	}
	_, err := tasks.Parse(tasks.KindText, []byte(`{"prompt":"a","tools":[{"name":"f","parameters":`+string(deep)+`}]}`))
	require.ErrorContains(t, err, "is nested more than 100 levels deep")
	_, err = client.Enqueue(t.Context(), tasks.Text{Prompt: "a", Tools: []tasks.Tool{{Name: "f", Parameters: shallow}}})
	require.NoError(t, err)
}

func TestATextIsNotTranslatedIntoItsOwnLanguage(t *testing.T) {
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t)})
	for name, p := range map[string]tasks.Translation{
		"said twice":             {Text: "a", SourceLang: "es", TargetLang: "es"},
		"in another case":        {Text: "a", SourceLang: "es", TargetLang: "ES"},
		"the default is English": {Text: "a", TargetLang: "en"},
	} {
		_, err := client.Enqueue(t.Context(), p)
		var problems tasks.ValidationError
		require.ErrorAs(t, err, &problems, name)
		require.Equal(t, "same_language", problems.Code(), name)
		require.ErrorContains(t, err, "target_lang: ", name)
	}
	_, err := client.Enqueue(t.Context(), tasks.Translation{Text: "a", SourceLang: "en", TargetLang: "es"})
	require.NoError(t, err)
	_, err = client.Enqueue(t.Context(), tasks.Translation{TargetLang: "en"})
	var problems tasks.ValidationError
	require.ErrorAs(t, err, &problems)
	require.Equal(t, "payload_invalid", problems.Code(), "several different problems have the common code")
}

func TestWholeNumbersKeepAllTheirDigits(t *testing.T) {
	rdb := redistest.Memory(t)
	client := tasks.NewClient(tasks.Config{Redis: rdb})
	p, err := tasks.Parse(tasks.KindImage, []byte(`{"prompt":"a mill","seed":9007199254740993}`))
	require.NoError(t, err)
	accepted, err := client.Enqueue(t.Context(), p, tasks.WithModel("@cf/leonardo/phoenix-1.0"))
	require.NoError(t, err)
	message, err := rdb.HGet(t.Context(), "asynq:{image:interactive}:t:"+accepted.ID, "msg").Bytes()
	require.NoError(t, err)
	task, _, err := tasks.DecodeMessage(message)
	require.NoError(t, err)
	require.JSONEq(t, `{"prompt":"a mill","seed":9007199254740993}`, string(task.Payload))
	require.Contains(t, string(task.Payload), "9007199254740993")
	p, err = tasks.Parse(tasks.KindText, []byte(`{"prompt":"hi","seed":9999999999,"tools":[{"name":"f","parameters":{"const":12345678901234567890}}]}`))
	require.NoError(t, err)
	require.Contains(t, string(p.(tasks.Text).Body()["tools"]), "12345678901234567890")
	require.Equal(t, "9999999999", string(p.(tasks.Text).Body()["seed"]))
}
