package tasks

import "github.com/go-json-experiment/json/jsontext"

// SystemMessage returns a message that tells the model how to behave.
func SystemMessage(text string) Message {
	return Message{Role: "system", Content: plainContent(text)}
}

// UserMessage returns a message of the user.
func UserMessage(text string) Message { return Message{Role: "user", Content: plainContent(text)} }

// AssistantMessage returns an earlier answer of the model.
func AssistantMessage(text string) Message {
	return Message{Role: "assistant", Content: plainContent(text)}
}

// ToolMessage returns the result of a tool call that the model requested.
func ToolMessage(toolCallID, result string) Message {
	return Message{Role: "tool", ToolCallID: toolCallID, Content: plainContent(result)}
}

// plainContent encodes a text as the content of a message. It keeps invalid UTF-8 so that
// Validate refuses it: the JSON encoder would replace the bytes silently.
func plainContent(text string) jsontext.Value {
	quoted, err := jsontext.AppendQuote(nil, text)
	if err != nil {
		return jsontext.Value(`"` + text + `"`)
	}
	return quoted
}
