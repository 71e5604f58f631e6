package workersai

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
)

// always answers every request the same way.
type always struct {
	contentType string
	body        []byte
}

func (a always) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {a.contentType}}, Body: io.NopCloser(bytes.NewReader(a.body))}, nil
}

// Whatever a model answers becomes what was asked for, or an error.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"result":{"shape":[1,2],"data":[[1,2]]},"success":true}`, `{"result":{"data":[[null]]}}`, `{"result":{"image":"iVBORw0KGgo="}}`,
		`{"result":{"translated_text":"x"}}`, `{"result":[{"translated_text":"x"}]}`, `{"result":{"text":"x","words":[{"word":"x","start":1,"end":2}],"vtt":"WEBVTT"}}`,
		`{"result":{"response":{"a":1},"tool_calls":[{"name":"f","arguments":"{}"}]}}`, `{"success":false}`, `{"result":null}`, `[]`, ``, `{"choices":[{"message":{"content":"x"}}]}`,
	} {
		f.Add("application/json", []byte(body))
	}
	f.Add("image/png", []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01"))
	f.Add("text/event-stream", []byte("data: {\"response\":\"Hel\"}\n\ndata: [DONE]\n\n"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		c := &Client{AccountID: "a", Token: "t", HTTP: &http.Client{Transport: always{contentType, body}}}
		if e, _, err := c.Embed(t.Context(), "@cf/baai/bge-base-en-v1.5", EmbedInput{Texts: []string{"a", "b"}}); err == nil && len(e.Vectors) != 2 {
			t.Fatalf("%d vectors for two texts: %q", len(e.Vectors), body)
		}
		if texts, _, err := c.Translate(t.Context(), "@cf/meta/m2m100-1.2b", TranslateInput{Texts: []string{"a"}, Target: "es"}); err == nil && len(texts) != 1 {
			t.Fatalf("%d translations for one text: %q", len(texts), body)
		}
		if i, _, err := c.Image(t.Context(), "@cf/black-forest-labs/flux-1-schnell", ImageInput{Prompt: "a"}); err == nil && (len(i.Data) == 0 || i.ContentType == "") {
			t.Fatalf("an empty picture: %q", body)
		}
		if g, _, err := c.Generate(t.Context(), "@cf/zai-org/glm-4.7-flash", map[string]json.RawMessage{"prompt": []byte(`"a"`)}); err == nil && g == nil {
			t.Fatalf("nothing and no error: %q", body)
		}
		in := TranscribeInput{Audio: bytes.NewReader([]byte("RIFF")), Size: 4, ContentType: "audio/wav"}
		if heard, _, err := c.Transcribe(t.Context(), "@cf/openai/whisper-large-v3-turbo", in); err == nil && heard == nil {
			t.Fatalf("nothing and no error: %q", body)
		}
	})
}
