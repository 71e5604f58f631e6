package workersai

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(stream string) (*Generation, error) {
	var c collector
	r := replyOf(200, "text/event-stream", stream)
	if err := c.readStream(r); err != nil {
		return nil, err
	}
	return c.generation(r)
}

func TestStreamsOfEveryFamilyAreUnderstood(t *testing.T) {
	cases := map[string]struct {
		stream string
		want   Generation
	}{
		"native": {
			"data: {\"response\":\"Hel\"}\n\ndata:{\"response\":\"lo\"}\n\ndata: {\"response\":\"\",\"usage\":{\"neurons\":2.8}}\n\ndata: [DONE]\n\n",
			Generation{Text: "Hello"},
		},
		"chat with reasoning": {
			"data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\r\n\r\n: ping\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n",
			Generation{Text: "Hi", Reasoning: "hm", FinishReason: "stop"},
		},
		"chat tools in parts": {
			`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f"}}]}}]}` + "\n\n" +
				`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}` + "\n\n" +
				`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}` + "\n\n" +
				`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":null,"function":{"name":null,"arguments":null}}]},"finish_reason":"tool_calls"}]}` + "\n\n",
			Generation{FinishReason: "tool_calls", ToolCalls: []ToolCall{{"c1", "f", json.RawMessage(`{"a":1}`)}}},
		},
		"native tools": {
			`data: {"tool_calls":[{"name":"f","arguments":{"a":1}},{"name":"g","arguments":{}}]}` + "\n\ndata: [DONE]\n\n",
			Generation{ToolCalls: []ToolCall{{"call_0", "f", json.RawMessage(`{"a":1}`)}, {"call_1", "g", json.RawMessage(`{}`)}}},
		},
	}
	for name, c := range cases {
		got, err := read(c.stream)
		require.NoError(t, err, name)
		require.Equal(t, c.want, *got, name)
	}
}

func TestAStreamCutAnywhereIsNeverAnAnswer(t *testing.T) {
	whole := "data: {\"response\":\"Hel\"}\n\ndata: {\"response\":\"lo é\"}\n\ndata: [DONE]\n\n"
	for n := range strings.Index(whole, "[DONE]") + len("[DONE]") {
		_, err := read(whole[:n])
		var api *Error
		require.ErrorAs(t, err, &api, "cut at %d", n)
		require.Equal(t, Transient, api.Class())
	}
}

func TestAnErrorFrameIsClassified(t *testing.T) {
	_, err := read("data: {\"response\":\"He\"}\n\ndata: {\"errors\":[{\"code\":3021,\"message\":\"per min rate reached\"}]}\n\n")
	var api *Error
	require.ErrorAs(t, err, &api)
	require.Equal(t, Throttled, api.Class())
}

func TestAWholeAnswerIsReadInEveryShape(t *testing.T) {
	for result, want := range map[string]Generation{
		`{"response":"hi","usage":{}}`: {Text: "hi"},
		`{"response":{"a":1}}`:         {Text: `{"a":1}`},
		`{"response":42}`:              {Text: "42"},
		`{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}`:       {Text: "hi", FinishReason: "stop"},
		`{"choices":[{"text":"hi","finish_reason":"length"}]}`:                    {Text: "hi", FinishReason: "length"},
		`{"response":null,"tool_calls":[{"name":"f","arguments":{"a":1}}]}`:       {ToolCalls: []ToolCall{{"call_0", "f", json.RawMessage(`{"a":1}`)}}},
		`{"tool_calls":[{"id":"x","function":{"name":"f","arguments":{"a":1}}}]}`: {ToolCalls: []ToolCall{{"x", "f", json.RawMessage(`{"a":1}`)}}},
		`{"choices":[{"message":{"content":null,"tool_calls":[{"id":"x","function":{"name":"f","arguments":"{\"a\":1}"}}]}}]}`: {
			ToolCalls: []ToolCall{{"x", "f", json.RawMessage(`{"a":1}`)}}},
	} {
		var c collector
		r := replyOf(200, "application/json", `{"success":true,"result":`+result+"}")
		require.NoError(t, c.readWhole(r), result)
		got, err := c.generation(r)
		require.NoError(t, err)
		require.Equal(t, want, *got, result)
	}
}

func TestTheTextOfAStreamIsPassedOnInWholeCharacters(t *testing.T) {
	for name, c := range map[string]struct {
		pieces []string // of a JSON string
		want   []string
	}{
		"plain":              {[]string{"Rh", "", "ine"}, []string{"Rh", "ine"}},
		"character in parts": {[]string{"a\xF0\x9F", "\x98", "\x80b"}, []string{"a", "😀b"}},
		"surrogate in parts": {[]string{`a\ud83d`, `\ude00`}, []string{"a", "😀"}},
		"never completed":    {[]string{`a\ud83d`, "b"}, []string{"a", "\uFFFDb"}},
	} {
		stream := ""
		for _, p := range c.pieces {
			stream += `data: {"response":"` + p + "\"}\n\n"
		}
		var got []string
		answer := collector{onText: func(part string) { got = append(got, part) }}
		require.NoError(t, answer.readStream(replyOf(200, "text/event-stream", stream+"data: [DONE]\n\n")), name)
		require.Equal(t, c.want, got, name)
		require.Equal(t, strings.Join(c.want, ""), answer.text.String(), name)
	}
}
