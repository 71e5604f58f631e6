package workersai

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// Generation is what a text model answered.
type Generation struct {
	Text         string
	ToolCalls    []ToolCall
	Reasoning    string // what a reasoning model thought aloud
	FinishReason string // stop, length, tool_calls ...; empty when the model does not say
}

// ToolCall is a call the model asks for. Arguments is always a JSON object.
type ToolCall struct {
	ID        string
	Name      string
	Arguments json.RawMessage
}

// defaultMaxTokens is sent when the caller sets none: native models would stop after
// 256 tokens.
const defaultMaxTokens = 2048

// Generate asks a text model. body holds the fields of the request as the caller gave
// them; they are put into the model's own form. Answers are streamed, because the API
// ends long silent calls, except where a model or its JSON mode cannot.
func (c *Client) Generate(ctx context.Context, model string, body map[string]json.RawMessage) (*Generation, Meta, error) {
	row, _ := catalogue.Find(model)
	fields, err := textFields(row, body)
	if err != nil {
		return nil, Meta{}, err
	}
	r, err := jsonRequest(model, fields)
	if err != nil {
		return nil, Meta{}, err
	}
	start := time.Now()
	resp, err := c.post(ctx, r)
	if err != nil {
		return nil, Meta{Took: time.Since(start)}, err
	}
	defer resp.Body.Close()
	meta := metaOf(resp, start)
	var answer collector
	if mediaType(resp) == "text/event-stream" {
		err = answer.readStream(resp)
	} else {
		var result json.RawMessage
		if err = decodeResult(resp, &result); err == nil {
			err = answer.readWhole(resp, result)
		}
	}
	meta.Took = time.Since(start)
	meta.estimate(answer.neurons)
	if err != nil {
		return nil, meta, err
	}
	out, err := answer.generation()
	if err != nil {
		return nil, meta, unusable(meta, err.Error())
	}
	meta.estimate(row.TextNeurons(tokens(string(body["prompt"]), string(body["messages"])), tokens(out.Text, out.Reasoning)))
	if out.Text == "" && len(out.ToolCalls) == 0 && out.FinishReason == "length" {
		return nil, meta, &Error{Status: 200, Code: 8006, Message: "the model used up max_tokens before it answered: raise max_tokens or lower reasoning_effort", RequestID: meta.RequestID, Ray: meta.Ray}
	}
	return out, meta, nil
}

// textFields puts a request into the form of the model's family.
func textFields(row catalogue.Model, body map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	fields := maps.Clone(body)
	_, format := fields["response_format"]
	if !row.Whole && (!format || row.Answer != catalogue.Native) {
		fields["stream"] = json.RawMessage("true")
	}
	if err := fillContent(fields); err != nil {
		return nil, err
	}
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
	if format {
		shaped, err := schemaForm(fields["response_format"], row.Answer == catalogue.Chat)
		if err != nil {
			return nil, err
		}
		fields["response_format"] = shaped
	}
	return fields, nil
}

// fillContent writes "" for a content that is null or absent: native schemas refuse
// null.
func fillContent(fields map[string]json.RawMessage) error {
	if _, ok := fields["messages"]; !ok {
		return nil
	}
	var messages []map[string]json.RawMessage
	if err := json.Unmarshal(fields["messages"], &messages); err != nil {
		return fmt.Errorf("read the messages: %w", err)
	}
	for _, m := range messages {
		if c := string(m["content"]); c == "" || c == "null" {
			m["content"] = json.RawMessage(`""`)
		}
	}
	shaped, err := json.Marshal(messages)
	fields["messages"] = shaped
	return err
}

// schemaForm writes a JSON schema bare for native models and as {name, schema} for chat
// models, whichever way it was given.
func schemaForm(format json.RawMessage, wrapped bool) (json.RawMessage, error) {
	var f map[string]json.RawMessage
	if err := json.Unmarshal(format, &f); err != nil {
		return nil, fmt.Errorf("read response_format: %w", err)
	}
	var given map[string]json.RawMessage
	if json.Unmarshal(f["json_schema"], &given) != nil {
		return format, nil
	}
	inner, isWrapped := given["schema"]
	switch {
	case isWrapped && !wrapped:
		f["json_schema"] = inner
	case !isWrapped && wrapped:
		f["json_schema"] = json.RawMessage(fmt.Sprintf(`{"name":"answer","schema":%s}`, f["json_schema"]))
	}
	return json.Marshal(f)
}

// object gives tool arguments as a JSON object: models send one, or its text.
func object(raw json.RawMessage) (json.RawMessage, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(text)
	}
	if len(strings.TrimSpace(string(raw))) == 0 || string(raw) == "null" {
		return json.RawMessage("{}"), nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("the arguments of a tool call are no JSON object")
	}
	return raw, nil
}
