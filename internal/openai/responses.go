package openai

import (
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// Responses is the endpoint of model responses; for the lines of batches only.
const Responses = "/v1/responses"

// unsupportedResponses are the fields of a response that cannot be honoured: nothing is kept
// between two requests.
var unsupportedResponses = map[string]string{
	"background":           "a line of a batch is one already",
	"conversation":         "give the whole input",
	"include":              "answers have their text and tool calls only",
	"previous_response_id": "give the whole input",
	"prompt":               "give the input itself",
	"top_logprobs":         "no model gives them",
}

// response reads a request for a model response as a text task.
func (r *Request) response(f *fields) {
	p := tasks.Text{
		Temperature: pointer[float64](f, "temperature", "a number"),
		TopP:        pointer[float64](f, "top_p", "a number"),
		MaxTokens:   pointer[int](f, "max_output_tokens", "a whole number"),
	}
	if text := f.text("instructions"); text != "" {
		p.Messages = append(p.Messages, tasks.Message{Role: "system", Content: quote(text)})
	}
	switch f.raw("input").Kind() {
	case 0:
		f.fail("input", "is missing; give a text or a list of items")
	case '"':
		p.Messages = append(p.Messages, tasks.Message{Role: "user", Content: f.raw("input")})
	default:
		items := inputItems(f)
		if f.err == nil && len(items) == 0 {
			f.fail("input", "is an empty list")
		}
		p.Messages = append(p.Messages, items...)
	}
	for _, t := range f.list("tools") {
		p.Tools = append(p.Tools, responseTool(t))
		f.take(t)
	}
	p.ToolChoice = responseToolChoice(f)
	p.ResponseFormat = textFormat(f)
	reasoning := f.object("reasoning")
	p.ReasoningEffort = reasoning.text("effort")
	f.take(reasoning)
	for _, name := range slices.Sorted(maps.Keys(unsupportedResponses)) {
		f.refuse(name, unsupportedResponses[name])
	}
	f.only("truncation", "must be disabled: nothing is left out of an input", "disabled")
	if one := pointer[bool](f, "parallel_tool_calls", "true or false"); one != nil {
		r.one = !*one
	}
	r.Stream = f.flag("stream")
	r.Metadata = value[map[string]string](f, "metadata", "an object of strings")
	r.characters = len(f.raw("input")) + len(f.raw("instructions"))
	r.Payload = p
}

// inputItems returns the items of the input as messages: messages, function calls of the model
// beside each other as one message, and their outputs.
func inputItems(f *fields) (messages []tasks.Message) {
	var calls []requestedCall
	flush := func() {
		if len(calls) == 0 {
			return
		}
		encoded, err := json.Marshal(calls)
		if err != nil {
			f.fail("input", "has arguments that are not valid")
		}
		messages, calls = append(messages, tasks.Message{Role: "assistant", ToolCalls: encoded}), nil
	}
	for _, item := range f.list("input") {
		switch kind := item.text("type"); kind {
		case "function_call":
			call := requestedCall{ID: item.text("call_id"), Type: "function", Function: requestedFunction{item.text("name"), item.text("arguments")}}
			if call.ID == "" || call.Function.Name == "" {
				item.fail("call_id", "is missing, or the name of the function is")
			}
			calls = append(calls, call)
		case "function_call_output":
			flush()
			messages = append(messages, callOutput(item))
		case "", "message":
			flush()
			messages = append(messages, tasks.Message{Role: inputRole(item), Content: inputContent(item)})
		case "reasoning": // of an earlier answer
		default:
			item.fail("type", "must be message, function_call or function_call_output: other items are not supported")
		}
		f.take(item)
	}
	flush()
	return messages
}

// callOutput reads the output of a function.
func callOutput(f *fields) tasks.Message {
	m := tasks.Message{Role: "tool", Content: f.raw("output"), ToolCallID: f.text("call_id")}
	if m.ToolCallID == "" {
		f.fail("call_id", "is missing")
	}
	if m.Content.Kind() != '"' {
		f.fail("output", "must be a string")
	}
	return m
}

func inputRole(f *fields) string {
	f.only("role", "must be user, assistant, system or developer", "user", "assistant", "system", "developer")
	switch role := f.text("role"); role {
	case "":
		f.fail("role", "is missing")
		return ""
	case "developer":
		return "system"
	default:
		return role
	}
}

// inputContent returns the content of a message in the form of a chat: a text, or its parts.
func inputContent(f *fields) jsontext.Value {
	switch f.raw("content").Kind() {
	case '"':
		return f.raw("content")
	case '[':
	default:
		f.fail("content", "must be a string or a list of parts")
		return nil
	}
	type image struct {
		URL string `json:"url"`
	}
	type part struct {
		Type  string `json:"type"`
		Text  string `json:"text,omitzero"`
		Image *image `json:"image_url,omitzero"`
	}
	var parts []part
	for _, p := range f.list("content") {
		switch p.text("type") {
		case "input_text", "output_text", "text":
			parts = append(parts, part{Type: "text", Text: p.text("text")})
		case "refusal":
			parts = append(parts, part{Type: "text", Text: p.text("refusal")})
		case "input_image":
			parts = append(parts, part{Type: "image_url", Image: &image{p.text("image_url")}})
			if p.text("image_url") == "" {
				p.fail("image_url", "is missing: files are not supported")
			}
		default:
			p.fail("type", "must be input_text, output_text or input_image: other parts are not supported")
		}
		f.take(p)
	}
	if len(parts) == 1 && parts[0].Image == nil {
		return quote(parts[0].Text)
	}
	encoded, err := json.Marshal(parts)
	if err != nil {
		f.fail("content", "is not valid")
	}
	return encoded
}

// responseTool reads a function, whose fields are beside its type here.
func responseTool(f *fields) tasks.Tool {
	f.only("type", "must be function: other tools are not supported", "function")
	function := tasks.Function{
		Name: f.text("name"), Description: f.text("description"), Parameters: f.raw("parameters"), Strict: pointer[bool](f, "strict", "true or false"),
	}
	if function.Name == "" {
		f.fail("name", "is missing")
	}
	return tasks.Tool{Type: "function", Function: &function}
}

// responseToolChoice reads auto, none, required or a named function.
func responseToolChoice(f *fields) jsontext.Value {
	if f.raw("tool_choice").Kind() != '{' {
		return toolChoice(f)
	}
	named := f.object("tool_choice")
	named.only("type", "must be function: other choices are not supported", "function")
	name := named.text("name")
	if name == "" {
		named.fail("name", "is missing")
	}
	f.take(named)
	return jsontext.Value(`{"type":"function","function":{"name":` + string(quote(name)) + `}}`)
}

// textFormat reads text.format.
func textFormat(f *fields) *tasks.Format {
	text := f.object("text")
	text.only("verbosity", "is not supported: ask in the input for short or long answers", "medium")
	given := text.object("format")
	given.only("type", "must be text, json_object or json_schema", "text", "json_object", "json_schema")
	text.take(given)
	f.take(text)
	switch given.text("type") {
	case "":
		return nil
	case "json_schema":
		schema := map[string]jsontext.Value{}
		for _, name := range []string{"name", "description", "schema", "strict"} {
			if v := given.raw(name); v != nil {
				schema[name] = v
			}
		}
		encoded, err := json.Marshal(schema, json.Deterministic(true))
		if err != nil {
			f.fail("text", "has a schema that is not valid")
		}
		return &tasks.Format{Type: "json_schema", JSONSchema: encoded}
	default:
		return &tasks.Format{Type: given.text("type")}
	}
}

// The parts of a model response.
type (
	modelResponse struct {
		ID                string            `json:"id"`
		Object            string            `json:"object"`
		CreatedAt         int64             `json:"created_at"`
		Status            string            `json:"status"`
		Error             *struct{}         `json:"error"`
		IncompleteDetails *incomplete       `json:"incomplete_details"`
		Instructions      *string           `json:"instructions"`
		Metadata          map[string]string `json:"metadata"`
		Model             string            `json:"model"`
		Output            []outputItem      `json:"output"`
		ParallelToolCalls bool              `json:"parallel_tool_calls"`
		ToolChoice        string            `json:"tool_choice"`
		Tools             []struct{}        `json:"tools"`
		Usage             responseUsage     `json:"usage"`
	}
	incomplete struct {
		Reason string `json:"reason"`
	}
	outputItem struct {
		ID        string       `json:"id"`
		Type      string       `json:"type"`
		Status    string       `json:"status,omitzero"`
		Role      string       `json:"role,omitzero"`
		Content   []outputText `json:"content,omitzero"`
		Summary   []outputText `json:"summary,omitzero"` // of reasoning
		CallID    string       `json:"call_id,omitzero"`
		Name      string       `json:"name,omitzero"`
		Arguments string       `json:"arguments,omitzero"`
	}
	outputText struct {
		Type        string     `json:"type"`
		Text        *string    `json:"text,omitzero"`
		Refusal     string     `json:"refusal,omitzero"`
		Annotations []struct{} `json:"annotations,omitzero"`
	}
	responseUsage struct {
		InputTokens   int            `json:"input_tokens"`
		InputDetails  map[string]int `json:"input_tokens_details"`
		OutputTokens  int            `json:"output_tokens"`
		OutputDetails map[string]int `json:"output_tokens_details"`
		TotalTokens   int            `json:"total_tokens"`
	}
)

// modelResponse writes the result of a text task as a model response.
func (r *Request) modelResponse(result *tasks.Result) ([]byte, Tokens, error) {
	out, err := tasks.OutputOf[tasks.TextOutput](result)
	if err != nil {
		return nil, Tokens{}, err
	}
	if r.one && len(out.ToolCalls) > 1 {
		out.ToolCalls = out.ToolCalls[:1]
	}
	usage := r.chatUsage(out)
	m := modelResponse{
		ID: "resp_" + result.ID, Object: "response", CreatedAt: result.FinishedAt.Unix(), Status: "completed", Metadata: map[string]string{}, Model: result.Model,
		Output: []outputItem{}, ParallelToolCalls: !r.one, ToolChoice: "auto", Tools: []struct{}{},
		Usage: responseUsage{
			InputTokens: usage.PromptTokens, InputDetails: map[string]int{"cached_tokens": 0},
			OutputTokens: usage.CompletionTokens, OutputDetails: map[string]int{"reasoning_tokens": 0}, TotalTokens: usage.TotalTokens,
		},
	}
	if reason := finishReason(out); reason == "length" || reason == "content_filter" {
		m.Status, m.IncompleteDetails = "incomplete", &incomplete{map[string]string{"length": "max_output_tokens"}[reason]}
		if reason == "content_filter" {
			m.IncompleteDetails.Reason = reason
		}
	}
	if out.Reasoning != "" {
		m.Output = append(m.Output, outputItem{ID: "rs_" + result.ID, Type: "reasoning", Summary: []outputText{{Type: "summary_text", Text: &out.Reasoning}}})
	}
	if out.Text != "" || out.Refusal != "" || len(out.ToolCalls) == 0 {
		message := outputItem{ID: "msg_" + result.ID, Type: "message", Status: m.Status, Role: "assistant"}
		if out.Text != "" || out.Refusal == "" {
			message.Content = append(message.Content, outputText{Type: "output_text", Text: &out.Text, Annotations: []struct{}{}})
		}
		if out.Refusal != "" {
			message.Content = append(message.Content, outputText{Type: "refusal", Refusal: out.Refusal})
		}
		m.Output = append(m.Output, message)
	}
	for _, c := range out.ToolCalls {
		m.Output = append(m.Output, outputItem{ID: "fc_" + c.ID, Type: "function_call", Status: "completed", CallID: c.ID, Name: c.Name, Arguments: argumentText(c.Arguments)})
	}
	body, err := json.Marshal(m)
	return body, Tokens{usage.PromptTokens, usage.CompletionTokens}, err
}
