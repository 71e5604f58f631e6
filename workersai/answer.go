package workersai

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// piece is any answer of a text model, or a frame of a streamed one: native and chat
// fields side by side, since both have been seen in one stream.
type piece struct {
	Response     json.RawMessage `json:"response"` // text, or an object in JSON mode
	ToolCalls    []toolPiece     `json:"tool_calls"`
	FinishReason string          `json:"finish_reason"`
	Choices      []struct {
		Text         string  `json:"text"` // of a text completion
		Message      message `json:"message"`
		Delta        message `json:"delta"`
		FinishReason string  `json:"finish_reason"`
	} `json:"choices"`
	Usage struct {
		Neurons float64 `json:"neurons"`
	} `json:"usage"`
	Error  json.RawMessage `json:"error"`
	Errors []apiError      `json:"errors"`
}

type message struct {
	Content          json.RawMessage `json:"content"`
	ReasoningContent string          `json:"reasoning_content"`
	Reasoning        string          `json:"reasoning"`
	ToolCalls        []toolPiece     `json:"tool_calls"`
}

// toolPiece is a tool call, flat or in OpenAI's form, whole or a part of one.
type toolPiece struct {
	Index     *int            `json:"index"`
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
	Function  struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

// collector puts an answer together from its pieces.
type collector struct {
	text, reasoning strings.Builder
	calls           []*partialCall
	finish          string
	neurons         float64
}

type partialCall struct {
	id, name string
	text     strings.Builder // arguments that came as text, perhaps in parts
	object   json.RawMessage // arguments that came as an object
}

// add takes in a frame. streamed says whether tool calls come in parts.
func (c *collector) add(p piece, streamed bool) {
	c.text.WriteString(plain(p.Response))
	c.tools(p.ToolCalls, streamed)
	c.finished(p.FinishReason)
	if p.Usage.Neurons > 0 {
		c.neurons = p.Usage.Neurons
	}
	if len(p.Choices) == 0 {
		return
	}
	choice := p.Choices[0]
	c.text.WriteString(choice.Text)
	for _, m := range []message{choice.Message, choice.Delta} {
		c.text.WriteString(plain(m.Content))
		c.reasoning.WriteString(m.ReasoningContent + m.Reasoning)
		c.tools(m.ToolCalls, streamed)
	}
	c.finished(choice.FinishReason)
}

func (c *collector) finished(why string) {
	if why != "" {
		c.finish = why
	}
}

// plain is a text field as text: a string as it is, an object or number as its JSON.
func plain(raw json.RawMessage) string {
	var text string
	if len(raw) == 0 || string(raw) == "null" || json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

func (c *collector) tools(pieces []toolPiece, streamed bool) {
	for _, p := range pieces {
		name, arguments := p.Name, p.Arguments
		if p.Function.Name != "" || len(p.Function.Arguments) > 0 {
			name, arguments = p.Function.Name, p.Function.Arguments
		}
		if string(arguments) == "null" {
			arguments = nil
		}
		if p.ID == "" && name == "" && (len(arguments) == 0 || string(arguments) == `""`) {
			continue // the entry that ends a streamed call
		}
		call := c.call(p.Index, streamed && name == "" && p.ID == "")
		if p.ID != "" {
			call.id = p.ID
		}
		if name != "" {
			call.name = name
		}
		var text string
		if json.Unmarshal(arguments, &text) == nil {
			call.text.WriteString(text)
		} else if len(arguments) > 0 {
			call.object = arguments
		}
	}
}

// call is the call that a piece belongs to: the one with its index, the last one for a
// further part without index, else a new one.
func (c *collector) call(index *int, further bool) *partialCall {
	const most = 128
	if index != nil && *index >= 0 && *index < most {
		for len(c.calls) <= *index {
			c.calls = append(c.calls, &partialCall{})
		}
		return c.calls[*index]
	}
	if further && len(c.calls) > 0 {
		return c.calls[len(c.calls)-1]
	}
	c.calls = append(c.calls, &partialCall{})
	return c.calls[len(c.calls)-1]
}

// readWhole takes in an answer that was not streamed.
func (c *collector) readWhole(resp *http.Response, result json.RawMessage) error {
	var p piece
	if err := json.Unmarshal(result, &p); err != nil {
		return badAnswer(resp, "the result has another shape than the model's")
	}
	if p.Response == nil && len(p.Choices) == 0 && len(p.ToolCalls) == 0 {
		return badAnswer(resp, "the result holds neither a response nor choices")
	}
	c.add(p, false)
	return nil
}

func (c *collector) generation() (*Generation, error) {
	g := &Generation{Text: c.text.String(), Reasoning: c.reasoning.String(), FinishReason: c.finish}
	for i, call := range c.calls {
		if call.name == "" {
			return nil, fmt.Errorf("a tool call has no name")
		}
		arguments := call.object
		if arguments == nil {
			arguments = json.RawMessage(call.text.String())
		}
		arguments, err := object(arguments)
		if err != nil {
			return nil, err
		}
		if call.id == "" {
			call.id = fmt.Sprintf("call_%d", i)
		}
		g.ToolCalls = append(g.ToolCalls, ToolCall{ID: call.id, Name: call.name, Arguments: arguments})
	}
	return g, nil
}
