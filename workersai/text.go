package workersai

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Generation is the answer of a text model.
type Generation struct {
	Text         string
	ToolCalls    []ToolCall
	Reasoning    string // the reasoning of a reasoning model
	Refusal      string // the model's explanation if it declines to answer
	FinishReason string // stop, length, tool_calls ...; empty if the model states none
	InputTokens  int    // as the API stated; 0 when it did not
	OutputTokens int    // likewise
}

// ToolCall is a function call that the model requests. Arguments is the JSON object that
// the tool's schema describes. If the model wrote something else, Arguments is that JSON
// value, or the text as a JSON string.
type ToolCall struct {
	ID        string
	Name      string
	Arguments json.RawMessage
}

// defaultMaxTokens is sent if the caller sets no limit: native models would stop after
// 256 tokens.
const defaultMaxTokens = 2048

// Generate calls a text model. body has the fields of the caller's request, which
// Generate converts to the model's own form. It streams the answer, because the API ends
// long calls without output, unless the model or its JSON mode does not support
// streaming.
func (c *Client) Generate(ctx context.Context, model string, body map[string]json.RawMessage) (*Generation, Meta, error) {
	return c.GenerateStream(ctx, model, body, nil)
}

// GenerateStream is Generate, and passes the text on as it comes: onText gets each further
// part, on the caller's goroutine. An answer that is not streamed, a refusal, reasoning and
// tool calls are not passed on. Only the returned Generation is an answer: a stream may fail
// after any part.
func (c *Client) GenerateStream(ctx context.Context, model string, body map[string]json.RawMessage, onText func(string)) (*Generation, Meta, error) {
	row, _ := catalogue.Find(model)
	r, err := jsonRequest(model, textFields(row, body))
	if err != nil {
		return nil, Meta{}, err
	}
	reply, err := c.post(ctx, r)
	if err != nil {
		return nil, reply.meta(), err
	}
	defer reply.close()
	answer := collector{onText: onText}
	var out *Generation
	if reply.streamed() {
		err = answer.readStream(reply)
	} else {
		err = answer.readWhole(reply)
	}
	if err == nil {
		out, err = answer.generation(reply)
	}
	meta := reply.meta()
	if neurons, ok := answer.neurons(); ok {
		meta.price(neurons)
	}
	if err != nil {
		return nil, meta, err
	}
	meta.InputTokens, meta.OutputTokens = out.InputTokens, out.OutputTokens
	meta.estimate(row.TextNeurons(tokens(string(body["prompt"]), string(body["messages"])), tokens(out.Text, out.Reasoning)))
	return out, meta, nil
}

// textFields converts a request to the form of the model's family.
func textFields(row catalogue.Model, body map[string]json.RawMessage) map[string]json.RawMessage {
	fields := maps.Clone(body)
	_, format := fields["response_format"]
	if !row.Whole && (!format || row.Answer != catalogue.Native) {
		fields["stream"] = json.RawMessage("true")
	}
	fillContent(fields)
	if prompt, ok := fields["prompt"]; ok && row.Answer == catalogue.Chat {
		delete(fields, "prompt")
		fields["messages"] = json.RawMessage(fmt.Sprintf(`[{"role":"user","content":%s}]`, prompt))
	}
	if _, ok := fields["max_tokens"]; !ok && row.Answer == catalogue.Native {
		most := defaultMaxTokens
		if row.Context > 0 {
			most = min(most, row.Context/4)
		}
		fields["max_tokens"] = json.RawMessage(fmt.Sprint(most))
	}
	if tools := fields["tools"]; !blank(tools) && row.Answer == catalogue.Native {
		fields["tools"] = completeTools(tools)
	}
	if format {
		fields["response_format"] = schemaForm(fields["response_format"], row.Answer == catalogue.Chat)
	}
	return fields
}

// fillContent replaces a content that is null or absent by "": native schemas refuse
// null.
func fillContent(fields map[string]json.RawMessage) {
	var messages []json.RawMessage
	if json.Unmarshal(fields["messages"], &messages) != nil {
		return
	}
	for i, m := range messages {
		messages[i] = change(m, func(m map[string]json.RawMessage) { fill(m, "content", `""`) })
	}
	fields["messages"] = encoded(messages, fields["messages"])
}

// schemaForm converts a JSON schema to the form of the model: plain for native models,
// {name, schema} for chat models. It accepts both.
func schemaForm(format json.RawMessage, wrapped bool) json.RawMessage {
	return change(format, func(f map[string]json.RawMessage) {
		var given map[string]json.RawMessage
		if json.Unmarshal(f["json_schema"], &given) != nil || given == nil {
			return
		}
		inner, isWrapped := given["schema"]
		switch {
		case isWrapped && !wrapped:
			f["json_schema"] = inner
		case !isWrapped && wrapped:
			f["json_schema"] = json.RawMessage(fmt.Sprintf(`{"name":"answer","schema":%s}`, f["json_schema"]))
		}
	})
}
