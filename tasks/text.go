package tasks

import (
	"encoding/json"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Text generates text from a prompt or a conversation, with tools and JSON answers if the
// model supports them. The fields are those of the API.
type Text struct {
	Messages          []Message      `json:"messages,omitempty" doc:"A whole conversation instead of INPUT: [{role, content}]."`
	Prompt            string         `json:"prompt,omitempty"`
	MaxTokens         *int           `json:"max_tokens,omitempty" doc:"The longest answer."`
	Temperature       *float64       `json:"temperature,omitempty" doc:"0 to 5; lower is steadier."`
	TopP              *float64       `json:"top_p,omitempty" doc:"0.001 to 1."`
	TopK              *int           `json:"top_k,omitempty" doc:"1 to 50."`
	Seed              *int64         `json:"seed,omitempty" doc:"1 to 9999999999."`
	RepetitionPenalty *float64       `json:"repetition_penalty,omitempty" doc:"0 to 2."`
	FrequencyPenalty  *float64       `json:"frequency_penalty,omitempty" doc:"-2 to 2."`
	PresencePenalty   *float64       `json:"presence_penalty,omitempty" doc:"-2 to 2."`
	Stop              jsontext.Value `json:"stop,omitempty" doc:"A string or a list of them."`
	ReasoningEffort   string         `json:"reasoning_effort,omitempty" doc:"low, medium or high." placeholder:"HOW"`
	Tools             []Tool         `json:"tools,omitempty" doc:"Functions the model may ask for."`
	ToolChoice        jsontext.Value `json:"tool_choice,omitempty" doc:"auto, none, required or a named one, as JSON."`
	ResponseFormat    *Format        `json:"response_format,omitempty" doc:"JSON mode."`
}

// Message is one turn of a conversation.
type Message struct {
	Role       string         `json:"role"`              // developer, system, user, assistant or tool
	Content    jsontext.Value `json:"content,omitempty"` // a string, or a list of parts
	Name       string         `json:"name,omitempty"`
	ToolCalls  jsontext.Value `json:"tool_calls,omitempty"`
	ToolCallID string         `json:"tool_call_id,omitempty"`
}

// Tool is a function that the model may request, in OpenAI's form ({type, function}) or
// flat (name, description, parameters).
type Tool struct {
	Type        string         `json:"type,omitempty"`
	Function    *Function      `json:"function,omitempty"`
	Name        string         `json:"name,omitempty"`
	Description string         `json:"description,omitempty"`
	Parameters  jsontext.Value `json:"parameters,omitempty"`
}

// Function describes a tool.
type Function struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Parameters  jsontext.Value `json:"parameters,omitempty"` // a JSON schema
	Strict      *bool          `json:"strict,omitempty"`
}

// Format requests an answer in JSON.
type Format struct {
	Type       string         `json:"type"`                  // text, json_object or json_schema
	JSONSchema jsontext.Value `json:"json_schema,omitempty"` // a schema, plain or as {name, schema}
}

// Kind implements Payload.
func (Text) Kind() Kind { return KindText }

// Validate implements Payload. The ranges are those of the API's schemas.
func (t Text) Validate() error {
	p := textProblems(t)
	switch {
	case t.Prompt == "" && len(t.Messages) == 0:
		p.add("prompt", "is missing; give a prompt or messages")
	case t.Prompt != "" && len(t.Messages) > 0:
		p.add("messages", "cannot be given together with prompt")
	case t.Prompt != "" && blank(t.Prompt):
		p.add("prompt", "is empty")
	}
	for i, m := range t.Messages {
		m.check(&p, fmt.Sprintf("messages[%d]", i))
	}
	between(&p, "max_tokens", t.MaxTokens, 1, 1<<20)
	between(&p, "temperature", t.Temperature, 0, 5)
	between(&p, "top_p", t.TopP, 0.001, 1)
	between(&p, "top_k", t.TopK, 1, 50)
	between(&p, "seed", t.Seed, 1, 9999999999)
	between(&p, "repetition_penalty", t.RepetitionPenalty, 0, 2)
	between(&p, "frequency_penalty", t.FrequencyPenalty, -2, 2)
	between(&p, "presence_penalty", t.PresencePenalty, -2, 2)
	oneOf(&p, "reasoning_effort", t.ReasoningEffort, "low", "medium", "high")
	for i, tool := range t.Tools {
		tool.check(&p, fmt.Sprintf("tools[%d]", i))
	}
	if f := t.ResponseFormat; f != nil {
		oneOf(&p, "response_format.type", f.Type, "text", "json_object", "json_schema")
		if f.Type == "" {
			p.add("response_format.type", "is missing")
		}
		if f.Type == "json_schema" && f.JSONSchema.Kind() != '{' {
			p.add("response_format.json_schema", "is missing")
		}
	}
	if k := t.Stop.Kind(); len(t.Stop) > 0 && k != '"' && k != '[' {
		p.add("stop", "wants a string or a list of strings")
	}
	return p.err()
}

func (m Message) check(p *ValidationError, field string) {
	if m.Role == "" {
		p.add(field+".role", "is missing")
	}
	oneOf(p, field+".role", m.Role, "developer", "system", "user", "assistant", "tool", "function")
	switch k := m.Content.Kind(); {
	case len(m.Content) == 0 || k == 'n':
		if len(m.ToolCalls) == 0 {
			p.add(field+".content", "is missing")
		}
	case k != '"' && k != '[':
		p.add(field+".content", "wants a string or a list of parts")
	}
}

func (t Tool) check(p *ValidationError, field string) {
	name, parameters := t.Name, t.Parameters
	if t.Function != nil {
		name, parameters = t.Function.Name, t.Function.Parameters
	}
	if name == "" {
		p.add(field, "has no name")
	}
	if len(parameters) > 0 && parameters.Kind() != '{' {
		p.add(field+".parameters", "wants a JSON schema object")
	}
}

func (t Text) checkModel(m catalogue.Model) ValidationError {
	var p ValidationError
	if m.Context > 0 && t.MaxTokens != nil && *t.MaxTokens > m.Context {
		p.add("max_tokens", "%d is more than the context of %s, %d", *t.MaxTokens, m.ID, m.Context)
	}
	return p
}

// Body returns the payload as the fields of an API request.
func (t Text) Body() map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	encoded, err := json.Marshal(t)
	if err == nil {
		err = json.Unmarshal(encoded, &fields)
	}
	if err != nil {
		panic(fmt.Sprintf("a text payload that was read as JSON cannot be written: %v", err))
	}
	return fields
}
