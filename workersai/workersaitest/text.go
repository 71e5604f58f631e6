package workersaitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// ask is a request to a text model.
type ask struct {
	Prompt   string `json:"prompt"`
	Messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Stream         bool     `json:"stream"`
	MaxTokens      int      `json:"max_tokens"`
	Temperature    *float64 `json:"temperature"`
	Tools          []tool   `json:"tools"`
	ResponseFormat *struct {
		Type       string          `json:"type"`
		JSONSchema json.RawMessage `json:"json_schema"`
	} `json:"response_format"`
}

type tool struct {
	function
	Function *function `json:"function"`
}

type function struct {
	Name        string          `json:"name"`
	Description *string         `json:"description"`
	Parameters  json.RawMessage `json:"parameters"`
}

// missing returns a field that the schema of native models requires and the tool lacks.
func (t tool) missing() string {
	f := t.function
	if t.Function != nil {
		f = *t.Function
	}
	var parameters struct {
		Type       string `json:"type"`
		Properties map[string]struct {
			Description *string `json:"description"`
		} `json:"properties"`
	}
	_ = json.Unmarshal(f.Parameters, &parameters)
	switch {
	case f.Description == nil:
		return "description"
	case len(f.Parameters) == 0:
		return "parameters"
	case parameters.Type == "":
		return "parameters/type"
	case parameters.Properties == nil:
		return "parameters/properties"
	}
	for _, name := range slices.Sorted(maps.Keys(parameters.Properties)) {
		if parameters.Properties[name].Description == nil {
			return "parameters/properties/" + name + "/description"
		}
	}
	return ""
}

func generate(row catalogue.Model, body []byte) answer {
	var q ask
	if why := fieldsIn(body, &q); why != "" {
		return failed(5006, why)
	}
	if why := q.check(row); why != "" {
		return failed(5006, why)
	}
	prompt := q.question()
	in := tokens(prompt)
	most := q.MaxTokens
	if most == 0 && row.Answer == catalogue.Native {
		most = 256
	}
	if row.Context > 0 && in+most > row.Context {
		return failed(5021, fmt.Sprintf("(%d) exceeded this model context window limit (%d)", in+most, row.Context))
	}
	s := said{row: row, prompt: in, finish: "stop"}
	switch {
	case len(q.Tools) > 0:
		s.call(q.Tools[0], prompt)
	case q.ResponseFormat != nil && q.ResponseFormat.Type != "text":
		s.text = fitted(q.ResponseFormat.JSONSchema, prompt)
	default:
		s.text = reply(prompt)
		if most > 0 && tokens(s.text) > most {
			s.text, s.finish = s.text[:4*most], "length"
		}
	}
	if q.Stream {
		return s.stream()
	}
	return s.whole()
}

func (q ask) check(row catalogue.Model) string {
	switch {
	case q.Prompt == "" && len(q.Messages) == 0:
		return "Error: oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt' or 'messages'"
	case row.Answer == catalogue.Chat && len(q.Messages) == 0:
		return "Error: required properties at '/' are 'messages'"
	case q.Temperature != nil && (*q.Temperature < 0 || *q.Temperature > 5):
		return "Error: '/temperature' is out of range"
	}
	for i, m := range q.Messages {
		if m.Role == "" || row.Answer == catalogue.Native && string(m.Content) == "null" {
			return fmt.Sprintf("Error: Type mismatch of '/messages/%d'", i)
		}
	}
	for i, t := range q.Tools {
		if missing := t.missing(); row.Answer == catalogue.Native && missing != "" {
			return fmt.Sprintf("Error: required properties at '/tools/%d' are '%s'", i, missing)
		}
	}
	return ""
}

// question returns the last message of the user.
func (q ask) question() string {
	if q.Prompt != "" {
		return q.Prompt
	}
	for i, v := range slices.Backward(q.Messages) {
		if v.Role != "user" && i > 0 {
			continue
		}
		var text string
		if json.Unmarshal(v.Content, &text) == nil {
			return text
		}
		var parts []struct {
			Text string `json:"text"`
		}
		_ = json.Unmarshal(v.Content, &parts)
		for _, p := range parts {
			text += p.Text
		}
		return text
	}
	return ""
}

func reply(prompt string) string {
	words := strings.Fields(prompt)
	if len(words) > 40 {
		words = append(words[:40:40], "…")
	}
	return "You asked: \"" + strings.Join(words, " ") + "\". This is the emulator's answer; a real model would say more."
}

// said is an answer before its conversion to the model's form.
type said struct {
	row       catalogue.Model
	text      string
	tool      string
	arguments json.RawMessage
	finish    string
	prompt    int // tokens
}

func (s *said) call(t tool, prompt string) {
	s.tool, s.arguments, s.finish = t.Name, t.Parameters, "tool_calls"
	if t.Function != nil {
		s.tool, s.arguments = t.Function.Name, t.Function.Parameters
	}
	s.arguments = json.RawMessage(fitted(s.arguments, prompt))
}

func (s said) neurons() float64 { return s.row.TextNeurons(s.prompt, s.tokens()) }
func (s said) tokens() int      { return tokens(s.text + string(s.arguments)) }

func (s said) usage() map[string]any {
	return map[string]any{
		"prompt_tokens": s.prompt, "completion_tokens": s.tokens(), "total_tokens": s.prompt + s.tokens(), "neurons": s.neurons(),
	}
}

// calls returns the tool calls in the form of the model: flat with an object, nested with
// an object, or nested with text.
func (s said) calls() []any {
	if s.tool == "" {
		return nil
	}
	if s.row.Answer == catalogue.Native && !strings.Contains(s.row.ID, "llama-4") {
		return []any{map[string]any{"name": s.tool, "arguments": s.arguments}}
	}
	var arguments any = string(s.arguments)
	if s.row.Answer == catalogue.Native {
		arguments = s.arguments
	}
	return []any{map[string]any{"id": "call_emulated", "type": "function", "function": map[string]any{"name": s.tool, "arguments": arguments}}}
}

func (s said) whole() answer {
	if s.row.Answer == catalogue.Native {
		out := map[string]any{"response": s.text, "usage": s.usage()}
		if s.tool != "" {
			out["tool_calls"] = s.calls()
		} else if json.Valid([]byte(s.text)) {
			out["response"] = json.RawMessage(s.text)
		}
		return result(out, s.neurons())
	}
	message := map[string]any{"role": "assistant", "content": s.text}
	if s.tool != "" {
		message["content"], message["tool_calls"] = nil, s.calls()
	}
	return result(map[string]any{
		"id": "chatcmpl-emulated", "object": "chat.completion", "created": 0, "model": s.row.ID, "usage": s.usage(),
		"choices": []any{map[string]any{"index": 0, "finish_reason": s.finish, "message": message}},
	}, s.neurons())
}

// stream returns the same answer as frames.
func (s said) stream() answer {
	var b bytes.Buffer
	frame := func(v any) {
		encoded, err := json.Marshal(v)
		if err == nil {
			fmt.Fprintf(&b, "data: %s\n\n", encoded)
		}
	}
	delta := func(d map[string]any, finish any) {
		frame(map[string]any{"object": "chat.completion.chunk", "model": s.row.ID, "choices": []any{map[string]any{"index": 0, "delta": d, "finish_reason": finish}}})
	}
	native := s.row.Answer == catalogue.Native
	for _, word := range strings.SplitAfter(s.text, " ") {
		if word == "" {
			continue
		}
		if native {
			frame(map[string]any{"response": word})
		} else {
			delta(map[string]any{"content": word}, nil)
		}
	}
	switch {
	case s.tool != "" && native:
		frame(map[string]any{"response": "", "tool_calls": s.calls()})
	case s.tool != "":
		half := len(s.arguments) / 2
		piece := func(function map[string]any, id any) {
			delta(map[string]any{"tool_calls": []any{map[string]any{"index": 0, "id": id, "type": "function", "function": function}}}, nil)
		}
		piece(map[string]any{"name": s.tool}, "call_emulated")
		piece(map[string]any{"arguments": string(s.arguments[:half])}, nil)
		piece(map[string]any{"arguments": string(s.arguments[half:])}, nil)
		piece(map[string]any{"name": nil, "arguments": nil}, nil)
	}
	if native {
		frame(map[string]any{"response": "", "usage": s.usage()})
	} else {
		delta(map[string]any{}, s.finish)
		frame(map[string]any{"choices": []any{}, "usage": s.usage()})
	}
	b.WriteString("data: [DONE]\n\n")
	return answer{status: http.StatusOK, contentType: "text/event-stream", body: b.Bytes(), neurons: s.neurons()}
}
