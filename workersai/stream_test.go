package workersai

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(stream string) (*Generation, error) {
	var c collector
	if err := c.readStream(answerOf(200, "text/event-stream", stream)); err != nil {
		return nil, err
	}
	return c.generation()
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
		require.NoError(t, c.readWhole(answerOf(200, "application/json", ""), json.RawMessage(result)), result)
		got, err := c.generation()
		require.NoError(t, err)
		require.Equal(t, want, *got, result)
	}
}

func TestToolArgumentsThatAreNoObjectAreAnError(t *testing.T) {
	_, err := read("data: {\"tool_calls\":[{\"name\":\"f\",\"arguments\":\"[1]\"}]}\n\ndata: [DONE]\n\n")
	require.ErrorContains(t, err, "no JSON object")
}

func FuzzStream(f *testing.F) {
	f.Add("data: {\"response\":\"Hel\"}\n\ndata: [DONE]\n\n")
	f.Add("data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\ndata: [DONE]\n")
	f.Fuzz(func(t *testing.T, stream string) {
		g, err := read(stream)
		if err != nil {
			return
		}
		for _, c := range g.ToolCalls {
			var m map[string]json.RawMessage
			if json.Unmarshal(c.Arguments, &m) != nil {
				t.Fatalf("%q gives arguments %s", stream, c.Arguments)
			}
		}
	})
}
