package workersai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// piece is an answer of a text model, or one frame of a streamed answer. It has native
// and chat fields, since both occur in one stream. Every field is raw JSON, so that a
// field of an unexpected type is ignored and does not affect the others.
type piece struct {
	errorForm
	Response     json.RawMessage `json:"response"` // text, or an object in JSON mode
	ToolCalls    json.RawMessage `json:"tool_calls"`
	FinishReason json.RawMessage `json:"finish_reason"`
	Choices      json.RawMessage `json:"choices"`
	Usage        json.RawMessage `json:"usage"`
}

type choice struct {
	Index        json.RawMessage `json:"index"`
	Text         json.RawMessage `json:"text"` // of a text completion
	Message      json.RawMessage `json:"message"`
	Delta        json.RawMessage `json:"delta"`
	FinishReason json.RawMessage `json:"finish_reason"`
}

type message struct {
	Content          json.RawMessage `json:"content"`
	ReasoningContent json.RawMessage `json:"reasoning_content"`
	Reasoning        json.RawMessage `json:"reasoning"`
	Refusal          json.RawMessage `json:"refusal"`
	ToolCalls        json.RawMessage `json:"tool_calls"`
}

func messageIn(raw json.RawMessage) (m message) {
	_ = json.Unmarshal(raw, &m)
	return m
}

func (m message) blank() bool {
	return blank(m.Content) && blank(m.ReasoningContent) && blank(m.Reasoning) && blank(m.Refusal) && blank(m.ToolCalls)
}

// collector assembles an answer from its pieces.
type collector struct {
	text, reasoning, refusal joined
	calls                    []*partialCall
	finish                   string
	usage                    json.RawMessage // from the last piece with usage
	choice                   *int            // index of the choice to read
	deltas                   bool            // the stream uses deltas: whole messages repeat them
	answered                 bool            // an answer without streaming has a text, perhaps an empty one
	onText                   func(string)    // gets further parts of the text; may be nil
	passed                   int             // bytes of the text that onText got
}

// passText gives the whole characters of the text that are new to onText.
func (c *collector) passText() {
	n := c.text.complete()
	if c.onText == nil || n <= c.passed {
		return
	}
	part := c.text.bytes[c.passed:n]
	c.passed = n
	c.onText(strings.ToValidUTF8(string(part), "\uFFFD"))
}

type partialCall struct {
	index    *int
	id, name string
	text     joined          // arguments sent as text, perhaps in parts
	value    json.RawMessage // arguments sent as another JSON value
}

// begun reports whether any tokens have arrived.
func (c *collector) begun() bool {
	return !c.text.empty() || !c.reasoning.empty() || !c.refusal.empty() || len(c.calls) > 0
}

// neurons returns the price stated in the usage.
func (c *collector) neurons() (float64, bool) {
	var usage struct {
		Neurons json.RawMessage `json:"neurons"`
	}
	_ = json.Unmarshal(c.usage, &usage)
	return numberIn(usage.Neurons)
}

// tokens returns the tokens stated in the usage; zero if there are none.
func (c *collector) tokens() (input, output int) {
	var usage struct {
		Prompt     json.RawMessage `json:"prompt_tokens"`
		Completion json.RawMessage `json:"completion_tokens"`
	}
	_ = json.Unmarshal(c.usage, &usage)
	return countIn(usage.Prompt), countIn(usage.Completion)
}

// add adds a piece. It reads repeated content once: native and chat form, delta and
// message, two reasoning fields. streamed reports whether tool calls arrive in parts.
func (c *collector) add(p piece, streamed bool) {
	own := c.follow(p.Choices)
	first, second := messageIn(own.Message), messageIn(own.Delta)
	if streamed {
		first, second = second, first
		c.deltas = c.deltas || !first.blank()
		if c.deltas {
			second = message{}
		}
	}
	switch {
	case !blank(first.Content):
		c.addContent(first.Content)
	case !blank(second.Content):
		c.addContent(second.Content)
	case !blank(own.Text):
		c.text.addValue(own.Text)
	default:
		c.text.addValue(p.Response)
	}
	for _, raw := range []json.RawMessage{first.ReasoningContent, first.Reasoning, second.ReasoningContent, second.Reasoning} {
		if !blank(raw) && c.reasoning.addString(raw) {
			break
		}
	}
	for _, raw := range []json.RawMessage{first.Refusal, second.Refusal} {
		if !blank(raw) && c.refusal.addString(raw) {
			break
		}
	}
	for _, raw := range []json.RawMessage{first.ToolCalls, second.ToolCalls, p.ToolCalls} {
		if calls := list(raw); len(calls) > 0 {
			c.addCalls(calls, streamed)
			break
		}
	}
	for _, raw := range []json.RawMessage{p.FinishReason, own.FinishReason} {
		if why := stringIn(raw); why != "" {
			c.finish = why
		}
	}
	if !blank(p.Usage) {
		c.usage = p.Usage
	}
	c.answered = !streamed && (isString(p.Response) || isString(first.Content) || isString(own.Text))
}

func isString(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '"' }

// follow returns the choice to read: the lowest index in the first piece with choices,
// and the same index in later pieces.
func (c *collector) follow(raw json.RawMessage) (own choice) {
	found := false
	for _, element := range list(raw) {
		var next choice
		if json.Unmarshal(element, &next) != nil {
			continue
		}
		index := countIn(next.Index)
		if c.choice != nil && index != *c.choice || found && index >= countIn(own.Index) {
			continue
		}
		own, found = next, true
	}
	if found && c.choice == nil {
		index := countIn(own.Index)
		c.choice = &index
	}
	return own
}

// addContent adds the content of a message: text, or a list of parts.
func (c *collector) addContent(raw json.RawMessage) {
	if raw[0] != '[' {
		c.text.addValue(raw)
		return
	}
	for _, element := range list(raw) {
		var part struct {
			Text    json.RawMessage `json:"text"`
			Refusal json.RawMessage `json:"refusal"`
		}
		if !c.text.addString(element) && json.Unmarshal(element, &part) == nil {
			c.text.addString(part.Text)
			c.refusal.addString(part.Refusal)
		}
	}
}

// toolPiece is a tool call or a part of one, flat or in OpenAI's form.
type toolPiece struct {
	Index     json.RawMessage `json:"index"`
	ID        json.RawMessage `json:"id"`
	Name      json.RawMessage `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
	Function  json.RawMessage `json:"function"`
}

// addCalls adds tool calls. An entry without id, name and arguments ends a streamed call.
func (c *collector) addCalls(pieces []json.RawMessage, streamed bool) {
	for _, raw := range pieces {
		var p toolPiece
		if json.Unmarshal(raw, &p) != nil {
			continue
		}
		function := struct{ Name, Arguments json.RawMessage }{p.Name, p.Arguments}
		_ = json.Unmarshal(p.Function, &function)
		id, name := stringIn(p.ID), stringIn(function.Name)
		if id == "" && name == "" && blank(function.Arguments) {
			continue
		}
		call := c.callOf(p.Index, id, name, streamed)
		if call == nil {
			continue
		}
		if id != "" {
			call.id = id
		}
		if name != "" {
			call.name = name
		}
		if !call.text.addString(function.Arguments) && !blank(function.Arguments) {
			call.value = function.Arguments
		}
	}
}

// callOf returns the call that a piece of a stream belongs to, or starts a new one. A
// piece with an index continues the last call of that index, unless its id differs. A
// piece without an index continues the last call, unless it has an id or a name. Without
// streaming, each piece is a whole call.
func (c *collector) callOf(rawIndex json.RawMessage, id, name string, streamed bool) *partialCall {
	var index *int
	if n, ok := numberIn(rawIndex); ok && streamed {
		i := int(n)
		index = &i
	}
	for _, call := range slices.Backward(c.calls) {
		switch {
		case !streamed:
		case index == nil && id == "" && name == "":
			return call
		case index != nil && call.index != nil && *call.index == *index && (id == "" || call.id == "" || call.id == id):
			return call
		}
	}
	const most = 128
	if len(c.calls) == most {
		return nil
	}
	c.calls = append(c.calls, &partialCall{index: index})
	return c.calls[len(c.calls)-1]
}

// arguments returns a call's arguments as JSON. They are the expected object, in up to
// two layers of quotes. Otherwise they are the value that the model wrote, or its text as
// a JSON string.
func (p *partialCall) arguments() json.RawMessage {
	raw := p.value
	if raw == nil {
		raw = json.RawMessage(p.text.String())
	}
	var inner string
	if json.Unmarshal(raw, &inner) == nil && strings.HasPrefix(strings.TrimSpace(inner), "{") && json.Valid([]byte(inner)) {
		raw = json.RawMessage(inner)
	}
	raw = bytes.ToValidUTF8(bytes.TrimSpace(raw), []byte("\uFFFD"))
	switch {
	case blank(raw):
		return json.RawMessage("{}")
	case json.Valid(raw):
		return raw
	}
	text, err := json.Marshal(string(raw))
	if err != nil {
		return json.RawMessage("{}")
	}
	return text
}

// readWhole adds an answer that was not streamed.
func (c *collector) readWhole(r reply) error {
	result, err := r.result()
	if err != nil {
		return err
	}
	var p piece
	if json.Unmarshal(result, &p) != nil {
		return r.unusable("the result has another shape than the model's")
	}
	c.add(p, false)
	return nil
}

// generation returns the answer. It omits tool calls without a name, because they cannot
// be executed.
func (c *collector) generation(r reply) (*Generation, error) {
	g := &Generation{Text: c.text.String(), Reasoning: c.reasoning.String(), Refusal: c.refusal.String(), FinishReason: c.finish}
	g.InputTokens, g.OutputTokens = c.tokens()
	for _, call := range c.calls {
		if call.name == "" {
			continue
		}
		if call.id == "" {
			call.id = fmt.Sprintf("call_%d", len(g.ToolCalls))
		}
		g.ToolCalls = append(g.ToolCalls, ToolCall{ID: call.id, Name: call.name, Arguments: call.arguments()})
	}
	if g.Text == "" && g.Refusal == "" && len(g.ToolCalls) == 0 {
		switch {
		case c.finish == "length":
			return nil, r.identify(&Error{
				Status: r.StatusCode, Code: 8006,
				Message: "the model used up max_tokens before it answered: raise max_tokens or lower reasoning_effort",
			})
		case len(c.calls) > 0:
			return nil, r.unusable("the answer calls a tool without naming it")
		case c.finish == "" && !c.answered:
			return nil, r.unusable("the answer holds neither text nor tool call nor finish reason")
		}
	}
	return g, nil
}
