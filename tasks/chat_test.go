package tasks_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestMessagesArePlainText(t *testing.T) {
	text := tasks.Text{Messages: []tasks.Message{
		tasks.SystemMessage(`You say "no" to <b>all</b>.`), tasks.UserMessage("Hello\n\u2028 Zoë 🦀"), tasks.AssistantMessage("no"), tasks.ToolMessage("call-1", `{"t": 20}`),
	}}
	require.NoError(t, text.Validate())
	document, err := json.Marshal(text)
	require.NoError(t, err)
	parsed, err := tasks.Parse(tasks.KindText, document)
	require.NoError(t, err)
	for i, want := range []string{`You say "no" to <b>all</b>.`, "Hello\n\u2028 Zoë 🦀", "no", `{"t": 20}`} {
		var got string
		require.NoError(t, json.Unmarshal(parsed.(tasks.Text).Messages[i].Content, &got))
		require.Equal(t, want, got)
	}
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t)})
	for _, broken := range []string{"a\xff", "a\x00b", "\"\xff"} {
		_, err = client.Enqueue(t.Context(), tasks.Text{Messages: []tasks.Message{tasks.UserMessage(broken)}})
		require.ErrorContains(t, err, "messages[0].content: ", "%q", broken)
	}
}

// A conversation is written in plain text.
func ExampleUserMessage() {
	p := tasks.Text{Messages: []tasks.Message{
		tasks.SystemMessage("Answer in one word."),
		tasks.UserMessage(`What is the capital of "Portugal"?`),
	}}
	fmt.Println(p.Validate())
	// Output: <nil>
}
