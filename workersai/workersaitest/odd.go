package workersaitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf16"
)

// Oddity is an unusual answer: the model's answer differs from the normal one, or an
// intermediary answers instead of the API.
type Oddity struct {
	Name   string // for Fault.Odd
	About  string
	Billed bool // the model runs and bills
	Usable bool // the answer has all content of the normal one, so one call is enough

	change func(answer) answer // changes a normal answer; nil if the model does not answer
	said   answer              // replaces the model's answer
}

// Oddities returns all oddities.
func Oddities() []Oddity {
	return []Oddity{
		{
			Name: "odd_fields", Billed: true, Usable: true, change: oddFields,
			About: "fields that do not matter have other types: usage is a list, finish_reason 0, times are text, indexes begin at 1",
		},
		{
			Name: "odd_form", Billed: true, Usable: true, change: oddForm,
			About: "streams have a byte order mark, comments, every kind of line end, and characters split over frames; JSON is declared as text",
		},
		{
			Name: "nan_neurons", Billed: true, Usable: true, About: "the price header is NaN",
			change: func(a answer) answer { a.price = "NaN"; return a },
		},
		{
			Name: "no_neurons", Billed: true, Usable: true, About: "the price header is absent",
			change: func(a answer) answer { a.silent = true; return a },
		},
		{
			Name: "error_frame", Billed: true, change: errorFrame,
			About: "a stream ends with an error after half its tokens; any other answer is an unknown error under status 200",
		},
		{
			Name: "unusable", Billed: true, change: unusable,
			About: "the answer is whole JSON or a whole stream, but its vector, text or picture is missing",
		},
		{
			Name: "unknown_error", About: "an error of an unknown code under status 200",
			said: unknownError,
		},
		{
			Name: "blocked_page", About: "a firewall answers with status 403 and a page; with Contains for one body only",
			said: answer{status: http.StatusForbidden, contentType: "text/html; charset=UTF-8", edge: true, body: []byte(
				"<!DOCTYPE html>\n<html><head><title>Attention Required! | Cloudflare</title></head><body>Sorry, you have been blocked</body></html>\n",
			)},
		},
		{
			Name: "redirect", About: "a redirect to another server",
			said: answer{status: http.StatusTemporaryRedirect, location: "https://elsewhere.invalid/", edge: true},
		},
	}
}

var unknownError = answer{
	status: http.StatusOK, code: 3050, contentType: "application/json", silent: true,
	body: []byte(`{"success":false,"errors":[{"code":3050,"message":"AiError: inference backend restarted"}],"result":null,"messages":[]}`),
}

func oddityOf(name string) (Oddity, error) {
	var names []string
	for _, o := range Oddities() {
		if o.Name == name {
			return o, nil
		}
		names = append(names, o.Name)
	}
	return Oddity{}, fmt.Errorf("%q is not a valid Odd, which is one of %s", name, strings.Join(names, ", "))
}

// eachDocument changes the JSON of an answer: its body, or each frame of a stream.
func eachDocument(a answer, change func(document any) any) answer {
	again := func(raw []byte) []byte {
		var document any
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		if decoder.Decode(&document) != nil {
			return raw
		}
		encoded, err := json.Marshal(change(document))
		if err != nil {
			return raw
		}
		return encoded
	}
	switch a.contentType {
	case "application/json":
		a.body = again(a.body)
	case "text/event-stream":
		var b bytes.Buffer
		for _, data := range framesOf(a) {
			fmt.Fprintf(&b, "data: %s\n\n", again(data))
		}
		a.body = b.Bytes()
	}
	return a
}

// framesOf returns the data of a stream's events.
func framesOf(a answer) (frames [][]byte) {
	for line := range bytes.Lines(a.body) {
		if data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data: ")); ok {
			frames = append(frames, data)
		}
	}
	return frames
}

func oddFields(a answer) answer {
	return eachDocument(a, func(document any) any { return odd("", document) })
}

// odd changes the type of the fields that clients do not need.
func odd(name string, value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = odd(name, v[i])
		}
	case map[string]any:
		for field := range v {
			v[field] = odd(field, v[field])
		}
	}
	switch name {
	case "usage":
		return []any{}
	case "errors", "created":
		return nil
	case "messages", "pooling", "confidence":
		return map[string]any{}
	case "shape":
		return "odd"
	case "finish_reason":
		if value == nil {
			return 0
		}
	case "index":
		if n, ok := value.(json.Number); ok {
			i, _ := n.Int64()
			return fmt.Sprint(i + 1)
		}
	case "start", "end", "word_count", "duration":
		return fmt.Sprint(value)
	}
	return value
}

func oddForm(a answer) answer {
	if a.contentType != "text/event-stream" {
		if a.contentType == "application/json" {
			a.contentType = "text/plain; charset=utf-8"
		}
		return a
	}
	var b bytes.Buffer
	b.WriteString("\uFEFF: a comment\n")
	ends := []string{"\n", "\r\n", "\r"}
	for i, data := range framesOf(a) {
		end := ends[i%len(ends)]
		for _, part := range splitCharacter(data) {
			lines := bytes.Replace(part, []byte(`":`), []byte("\":\ndata: "), 1)
			fmt.Fprintf(&b, "id: %d%sdata:%s%s%s", i, end, bytes.ReplaceAll(lines, []byte("\n"), []byte(end)), end, end)
		}
	}
	a.body = b.Bytes()
	return a
}

// splitCharacter splits a text frame inside its first non-ASCII character. Each of the
// two frames has half of a surrogate pair, or some of the character's bytes.
func splitCharacter(frame []byte) [][]byte {
	for _, field := range []string{`"response":"`, `"content":"`} {
		before, text, ok := bytes.Cut(frame, []byte(field))
		text, after, ok2 := bytes.Cut(text, []byte(`"`))
		i := bytes.IndexFunc(text, func(r rune) bool { return r > 127 })
		if !ok || !ok2 || i < 0 || bytes.ContainsRune(text, '\\') {
			continue
		}
		first, second := text[:i+1], text[i+1:]
		if r := []rune(string(text[i:]))[0]; utf16.RuneLen(r) == 2 {
			high, low := utf16.EncodeRune(r)
			first = fmt.Appendf(bytes.Clone(text[:i]), `\u%04x`, high)
			second = append(fmt.Appendf(nil, `\u%04x`, low), text[i+len(string(r)):]...)
		}
		join := func(part []byte) []byte {
			return bytes.Join([][]byte{before, []byte(field), part, []byte(`"`), after}, nil)
		}
		return [][]byte{join(first), join(second)}
	}
	return [][]byte{frame}
}

func errorFrame(a answer) answer {
	if a.contentType != "text/event-stream" {
		a.contentType, a.body = unknownError.contentType, unknownError.body
		return a
	}
	var b bytes.Buffer
	frames := framesOf(a)
	for _, data := range frames[:max(1, len(frames)/2)] {
		fmt.Fprintf(&b, "data: %s\n\n", data)
	}
	b.WriteString("data: {\"error\":\"upstream connection closed\"}\n\n")
	a.body = b.Bytes()
	return a
}

func unusable(a answer) answer {
	if a.contentType == "text/event-stream" {
		a.body = []byte("data: [DONE]\n\n")
		return a
	}
	if strings.HasPrefix(a.contentType, "image/") {
		a.contentType = "application/json"
		a.body = []byte(`{"success":true,"result":{"image":""}}`)
		return a
	}
	return eachDocument(a, func(document any) any { return without("", document) })
}

// without removes the content of an answer.
func without(name string, value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = without(name, v[i])
		}
	case map[string]any:
		for field := range v {
			v[field] = without(field, v[field])
		}
	}
	switch name {
	case "data", "response", "choices", "text", "transcript", "image", "translated_text", "tool_calls", "segments":
		return nil
	case "translations":
		return []any{""}
	}
	return value
}
