package openai

import (
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// unsupported are the fields of a chat completion that would change the answer and that
// Workers AI or neuronmill cannot honour.
var unsupported = map[string]string{
	"audio":              "answers are text",
	"function_call":      "use tool_choice",
	"functions":          "use tools",
	"logit_bias":         "no model takes it",
	"logprobs":           "no model gives them",
	"top_logprobs":       "no model gives them",
	"web_search_options": "no model searches the web",
}

func (r *Request) chat(f *fields) {
	p := tasks.Text{
		Temperature:       pointer[float64](f, "temperature", "a number"),
		TopP:              pointer[float64](f, "top_p", "a number"),
		TopK:              pointer[int](f, "top_k", "a whole number"),
		Seed:              pointer[int64](f, "seed", "a whole number"),
		RepetitionPenalty: pointer[float64](f, "repetition_penalty", "a number"),
		FrequencyPenalty:  pointer[float64](f, "frequency_penalty", "a number"),
		PresencePenalty:   pointer[float64](f, "presence_penalty", "a number"),
		Stop:              f.raw("stop"),
		ReasoningEffort:   f.text("reasoning_effort"),
		MaxTokens:         maxTokens(f),
	}
	if !f.has("messages") {
		f.fail("messages", "is missing; give a list of messages")
	}
	for _, m := range f.list("messages") {
		p.Messages = append(p.Messages, message(m))
		f.take(m)
	}
	if f.err == nil && len(p.Messages) == 0 {
		f.fail("messages", "is an empty list")
	}
	for _, t := range f.list("tools") {
		p.Tools = append(p.Tools, functionTool(t))
		f.take(t)
	}
	p.ToolChoice = toolChoice(f)
	p.ResponseFormat = responseFormat(f)
	for _, name := range slices.Sorted(maps.Keys(unsupported)) {
		f.refuse(name, unsupported[name])
	}
	if n := pointer[int](f, "n", "a whole number"); n != nil && *n != 1 {
		f.fail("n", "must be 1: send the request again for another answer")
	}
	for _, m := range value[[]string](f, "modalities", "a list of strings") {
		if m != "text" {
			f.fail("modalities", "answers are text only")
		}
	}
	f.only("verbosity", "is not supported: ask in the prompt for short or long answers", "medium")
	if one := pointer[bool](f, "parallel_tool_calls", "true or false"); one != nil {
		r.one = !*one
	}
	r.Stream = f.flag("stream")
	options := f.object("stream_options")
	r.includeUsage = options.flag("include_usage")
	f.take(options)
	r.Metadata = value[map[string]string](f, "metadata", "an object of strings")
	r.characters = len(f.raw("messages"))
	r.Payload = p
}

// maxTokens reads the limit of the answer, which has an old and a new name.
func maxTokens(f *fields) *int {
	before, now := pointer[int](f, "max_tokens", "a whole number"), pointer[int](f, "max_completion_tokens", "a whole number")
	if before != nil && now != nil && *before != *now {
		f.fail("max_tokens", "differs from max_completion_tokens; give one of them")
	}
	if now != nil {
		if *now < 1 {
			f.fail("max_completion_tokens", "must be at least 1")
		}
		return now
	}
	return before
}

// message reads one message. It leaves out fields that belong to answers, which clients
// send back with them, such as refusal and annotations.
func message(f *fields) tasks.Message {
	m := tasks.Message{
		Role: f.text("role"), Content: f.raw("content"), Name: f.text("name"),
		ToolCalls: f.raw("tool_calls"), ToolCallID: f.text("tool_call_id"),
	}
	f.refuse("function_call", "use tool_calls")
	f.refuse("audio", "messages are text and images")
	if m.Content.Kind() == '[' {
		for _, part := range f.list("content") {
			part.only("type", "must be text or image_url: other parts are not supported", "text", "image_url", "refusal")
			f.take(part)
		}
	}
	if m.Content == nil && m.Role == "assistant" && m.ToolCalls == nil && f.has("refusal") {
		m.Content = f.raw("refusal")
	}
	for _, call := range f.list("tool_calls") {
		call.only("type", "must be function: other tool calls are not supported", "function")
		if function := call.object("function"); f.err == nil && call.err == nil && function.text("name") == "" {
			f.fail("tool_calls", "has a call without a function's name")
		}
		f.take(call)
	}
	if m.Role == "tool" && m.ToolCallID == "" {
		f.fail("tool_call_id", "is missing")
	}
	return m
}

func functionTool(f *fields) tasks.Tool {
	f.only("type", "must be function: other tools are not supported", "function")
	inner := f.object("function")
	function := tasks.Function{
		Name: inner.text("name"), Description: inner.text("description"), Parameters: inner.raw("parameters"),
		Strict: pointer[bool](inner, "strict", "true or false"),
	}
	if function.Name == "" {
		inner.fail("name", "is missing")
	}
	f.take(inner)
	return tasks.Tool{Type: "function", Function: &function}
}

// toolChoice reads auto, none, required or a named function.
func toolChoice(f *fields) jsontext.Value {
	choice := f.raw("tool_choice")
	switch choice.Kind() {
	case 0:
		return nil
	case '"':
		f.only("tool_choice", "must be auto, none, required or a function", "auto", "none", "required")
	case '{':
		named := f.object("tool_choice")
		named.only("type", "must be function: other choices are not supported", "function")
		f.take(named)
	default:
		f.fail("tool_choice", "must be auto, none, required or a function")
	}
	return choice
}

func responseFormat(f *fields) *tasks.Format {
	if !f.has("response_format") {
		return nil
	}
	given := f.object("response_format")
	format := &tasks.Format{Type: given.text("type"), JSONSchema: given.raw("json_schema")}
	given.only("type", "must be text, json_object or json_schema", "text", "json_object", "json_schema")
	f.take(given)
	return format
}

// The parts of a chat completion.
type (
	completion struct {
		ID      string           `json:"id"`
		Object  string           `json:"object"`
		Created int64            `json:"created"`
		Model   string           `json:"model"`
		Choices []choice         `json:"choices"`
		Usage   *completionUsage `json:"usage,omitzero"`
	}
	choice struct {
		Index        int       `json:"index"`
		Message      *answer   `json:"message,omitzero"`
		Delta        *answer   `json:"delta,omitzero"`
		Logprobs     *struct{} `json:"logprobs"`
		FinishReason *string   `json:"finish_reason"`
	}
	answer struct {
		Role      string          `json:"role,omitzero"`
		Content   jsontext.Value  `json:"content,omitzero"`
		Refusal   jsontext.Value  `json:"refusal,omitzero"`
		Reasoning string          `json:"reasoning_content,omitzero"`
		ToolCalls []requestedCall `json:"tool_calls,omitzero"`
	}
	requestedCall struct {
		Index    *int              `json:"index,omitzero"` // in chunks
		ID       string            `json:"id"`
		Type     string            `json:"type"`
		Function requestedFunction `json:"function"`
	}
	requestedFunction struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"` // JSON, as text
	}
	completionUsage struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
)

// chatAnswer reads the output of a text task.
func (r *Request) chatAnswer(result *tasks.Result) (answer, string, *completionUsage, error) {
	out, err := tasks.OutputOf[tasks.TextOutput](result)
	if err != nil {
		return answer{}, "", nil, err
	}
	if r.one && len(out.ToolCalls) > 1 {
		out.ToolCalls = out.ToolCalls[:1]
	}
	a := answer{Role: "assistant", Content: quote(out.Text), Refusal: jsontext.Value("null"), Reasoning: out.Reasoning}
	for _, c := range out.ToolCalls {
		a.ToolCalls = append(a.ToolCalls, requestedCall{ID: c.ID, Type: "function", Function: requestedFunction{c.Name, argumentText(c.Arguments)}})
	}
	if out.Refusal != "" {
		a.Refusal = quote(out.Refusal)
	}
	if out.Text == "" && (len(a.ToolCalls) > 0 || out.Refusal != "") {
		a.Content = jsontext.Value("null")
	}
	return a, finishReason(out), r.chatUsage(out), nil
}

// argumentText returns a call's arguments as OpenAI has them: JSON in a text. Arguments
// that are no JSON object stand as the model wrote them.
func argumentText(raw []byte) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

func quote(s string) jsontext.Value {
	quoted, err := jsontext.AppendQuote(nil, s)
	if err != nil { // a stored result is valid UTF-8
		return jsontext.Value(`""`)
	}
	return quoted
}

func finishReason(out tasks.TextOutput) string {
	switch {
	case len(out.ToolCalls) > 0:
		return "tool_calls"
	case slices.Contains([]string{"length", "content_filter"}, out.FinishReason):
		return out.FinishReason
	case slices.Contains([]string{"max_tokens", "max_length"}, out.FinishReason):
		return "length"
	}
	return "stop"
}

// chatUsage returns the tokens that the API stated, else an estimate at four characters
// a token.
func (r *Request) chatUsage(out tasks.TextOutput) *completionUsage {
	u := &completionUsage{PromptTokens: out.InputTokens, CompletionTokens: out.OutputTokens}
	if u.PromptTokens == 0 && u.CompletionTokens == 0 {
		u.PromptTokens = (r.characters + 3) / 4
		characters := len(out.Text) + len(out.Reasoning)
		for _, c := range out.ToolCalls {
			characters += len(c.Name) + len(c.Arguments)
		}
		u.CompletionTokens = (characters + 3) / 4
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

func (r *Request) completion(object string, result *tasks.Result) completion {
	return completion{ID: "chatcmpl-" + result.ID, Object: object, Created: result.FinishedAt.Unix(), Model: result.Model, Choices: []choice{}}
}

func (r *Request) chatResponse(result *tasks.Result) ([]byte, Tokens, error) {
	a, finish, usage, err := r.chatAnswer(result)
	if err != nil {
		return nil, Tokens{}, err
	}
	c := r.completion("chat.completion", result)
	c.Choices = []choice{{Message: &a, FinishReason: &finish}}
	c.Usage = usage
	body, err := json.Marshal(c)
	return body, Tokens{usage.PromptTokens, usage.CompletionTokens}, err
}

// Chunks returns the answer of a completed chat task as the data of server-sent events,
// without the final [DONE].
func (r *Request) Chunks(result *tasks.Result) ([][]byte, error) {
	a, finish, usage, err := r.chatAnswer(result)
	if err != nil {
		return nil, err
	}
	role := answer{Role: "assistant", Content: jsontext.Value(`""`), Refusal: jsontext.Value("null")}
	deltas := []*answer{&role}
	if a.Reasoning != "" {
		deltas = append(deltas, &answer{Reasoning: a.Reasoning})
	}
	if string(a.Content) != "null" {
		deltas = append(deltas, &answer{Content: a.Content})
	}
	if string(a.Refusal) != "null" {
		deltas = append(deltas, &answer{Refusal: a.Refusal})
	}
	for i, call := range a.ToolCalls {
		call.Index = &i
		deltas = append(deltas, &answer{ToolCalls: []requestedCall{call}})
	}
	var chunks [][]byte
	add := func(usage *completionUsage, choices ...choice) error {
		c := r.completion("chat.completion.chunk", result)
		c.Choices, c.Usage = append(c.Choices, choices...), usage
		chunk, err := json.Marshal(c)
		chunks = append(chunks, chunk)
		return err
	}
	for _, d := range deltas {
		if err := add(nil, choice{Delta: d}); err != nil {
			return nil, err
		}
	}
	if err := add(nil, choice{Delta: &answer{}, FinishReason: &finish}); err != nil {
		return nil, err
	}
	if r.includeUsage {
		if err := add(usage); err != nil {
			return nil, err
		}
	}
	return chunks, nil
}
