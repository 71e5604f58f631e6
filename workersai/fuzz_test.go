package workersai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"
)

// always answers every request in the same way.
type always struct {
	contentType string
	body        []byte
}

func (a always) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {a.contentType}}, Body: io.NopCloser(bytes.NewReader(a.body))}, nil
}

// recordedBodies returns the bodies of testdata/answers with their content types.
func recordedBodies(f *testing.F) (bodies []always) {
	files, err := filepath.Glob("testdata/answers/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatal("no recorded answers:", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var a always
		for _, part := range archive.Files {
			text := strings.TrimSpace(string(part.Data))
			switch part.Name {
			case "header":
				_, rest, _ := strings.Cut(text, "Content-Type: ")
				a.contentType, _, _ = strings.Cut(rest, "\n")
			case "body":
				a.body = part.Data
			case "body.quoted":
				unquoted, err := strconv.Unquote(text)
				if err != nil {
					f.Fatal(file, err)
				}
				a.body = []byte(unquoted)
			}
		}
		bodies = append(bodies, a)
	}
	return bodies
}

// Any answer becomes a valid result or an error. The result can be encoded as JSON, since
// a paid answer that cannot would be paid for again.
func FuzzAnswer(f *testing.F) {
	for _, a := range recordedBodies(f) {
		f.Add(a.contentType, a.body)
	}
	f.Add("image/png", []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		c := &Client{AccountID: "a", Token: "t", HTTP: &http.Client{Transport: always{contentType, body}}}
		check := func(out any, meta Meta, err error, whole bool) {
			if math.IsNaN(meta.Neurons) || meta.Neurons < 0 || meta.Neurons > 1e12 {
				t.Fatalf("%q costs %v", body, meta.Neurons)
			}
			if err != nil {
				return
			}
			encoded, err := json.Marshal(out)
			if err != nil || !utf8.Valid(encoded) || !whole {
				t.Fatalf("%q becomes %s, %v", body, encoded, err)
			}
		}
		vectors, meta, err := c.Embed(t.Context(), "@cf/example/tiny-embedding", EmbedInput{Texts: []string{"a", "b"}})
		check(vectors, meta, err, vectors != nil && len(vectors.Vectors) == 2)
		texts, meta, err := c.Translate(t.Context(), "@cf/meta/m2m100-1.2b", TranslateInput{Texts: []string{"a"}, Target: "es"})
		check(texts, meta, err, len(texts) == 1)
		picture, meta, err := c.Image(t.Context(), "@cf/black-forest-labs/flux-1-schnell", ImageInput{Prompt: "a"})
		check(picture, meta, err, picture != nil && len(picture.Data) > 0 && picture.ContentType != "")
		text, meta, err := c.Generate(t.Context(), "@cf/zai-org/glm-4.7-flash", map[string]json.RawMessage{"prompt": []byte(`"a"`)})
		check(text, meta, err, text != nil)
		in := TranscribeInput{Audio: bytes.NewReader([]byte("RIFF")), Size: 4, ContentType: "audio/wav"}
		transcript, meta, err := c.Transcribe(t.Context(), "@cf/openai/whisper-large-v3-turbo", in)
		check(transcript, meta, err, transcript != nil)
	})
}

// A stream has the same meaning for any line ends and any division into packets.
func FuzzStream(f *testing.F) {
	for _, a := range recordedBodies(f) {
		f.Add(string(a.body))
	}
	f.Fuzz(func(t *testing.T, stream string) {
		events, err := allEvents(strings.NewReader(stream))
		if err != nil {
			t.Fatal(err)
		}
		for name, other := range map[string]string{
			"LF": strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(stream), "CR": strings.NewReplacer("\r\n", "\r", "\n", "\r").Replace(stream),
		} {
			same, err := allEvents(iotest.OneByteReader(strings.NewReader(other)))
			if err != nil || !reflect.DeepEqual(events, same) {
				t.Fatalf("%q gives %q, with %s %q", stream, events, name, same)
			}
		}
		g, err := read(stream)
		if err != nil {
			return
		}
		if encoded, err := json.Marshal(g); err != nil || !utf8.Valid(encoded) {
			t.Fatalf("%q becomes %s, %v", stream, encoded, err)
		}
	})
}

func allEvents(r io.Reader) (events []event, err error) {
	for reader := newEventReader(r); ; {
		e, err := reader.next()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
}

// Text is complete wherever its frames are cut, as bytes or as escapes.
func FuzzTextInParts(f *testing.F) {
	f.Add("go 😀 on", 4)
	f.Add("\u0001\"\\é한", 3)
	f.Fuzz(func(t *testing.T, text string, at int) {
		if at < 0 || at > len(text) || !utf8.ValidString(text) {
			return
		}
		var asBytes, asUnits joined
		for _, part := range []string{text[:at], text[at:]} {
			var literal strings.Builder
			for i := range len(part) {
				if b := part[i]; b < ' ' || b == '"' || b == '\\' {
					fmt.Fprintf(&literal, "\\u%04X", b)
				} else {
					literal.WriteByte(b)
				}
			}
			asBytes.addString(json.RawMessage(`"` + literal.String() + `"`))
		}
		for _, r := range text {
			for _, unit := range utf16Units(r) {
				asUnits.addString(json.RawMessage(fmt.Sprintf(`"\u%04x"`, unit)))
			}
		}
		if asBytes.String() != text || asUnits.String() != text {
			t.Fatalf("%q becomes %q and %q", text, asBytes.String(), asUnits.String())
		}
	})
}

func utf16Units(r rune) []rune {
	if r < 0x10000 {
		return []rune{r}
	}
	return []rune{0xD800 + (r-0x10000)>>10, 0xDC00 + (r-0x10000)&0x3FF}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("3")
	f.Add("Thu, 01 Oct 2026 12:00:30 GMT")
	f.Fuzz(func(t *testing.T, value string) {
		if d := retryAfter(http.Header{"Retry-After": {value}}, time.Now()); d < 0 || d > retryAfterCap {
			t.Fatalf("%q gives %v", value, d)
		}
	})
}

func FuzzErrorBody(f *testing.F) {
	f.Add([]byte(`{"errors":[{"message":"AiError: no","code":5007}],"success":false}`))
	f.Add([]byte(`{"error":{"code":"5028"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e := replyOf(400, "application/json", string(body)).readRefusal()
		if e.Message == "" || len(e.Message) > 300 || strings.ContainsAny(e.Error(), "\r\n") || !validText(e.Error()) {
			t.Fatalf("%q becomes %q", body, e.Error())
		}
	})
}
