package workersai_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
)

// recorded is an API answer from a file in testdata/answers, whose comment names its
// source.
type recorded struct {
	source, model, kind string
	status              int
	header              http.Header
	body                []byte
	want                string // outcome as JSON
}

// outcome is the client's result for an answer.
type outcome struct {
	Text      string              `json:"text,omitempty"`
	Reasoning string              `json:"reasoning,omitempty"`
	Refusal   string              `json:"refusal,omitempty"`
	Finish    string              `json:"finish_reason,omitempty"`
	Calls     []call              `json:"tool_calls,omitempty"`
	Vectors   []json.RawMessage   `json:"vectors,omitempty"`
	Texts     []string            `json:"texts,omitempty"`
	Language  string              `json:"language,omitempty"`
	Duration  float64             `json:"duration,omitempty"`
	Segments  []workersai.Segment `json:"segments,omitempty"`
	Words     []workersai.Word    `json:"words,omitempty"`
	VTT       string              `json:"vtt,omitempty"`
	Image     string              `json:"image,omitempty"`
	Error     *failure            `json:"error,omitempty"`
	Neurons   float64             `json:"neurons,omitempty"` // where the API stated the price
	Priced    bool                `json:"priced"`
}

type call struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

type failure struct {
	Class      string `json:"class"`
	Status     int    `json:"status,omitempty"`
	Code       int    `json:"code,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Lost       bool   `json:"lost"`
	RetryAfter string `json:"retry_after,omitempty"`
	Message    string `json:"message,omitempty"` // a part of it
}

func readRecorded(t testing.TB, file string) recorded {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	require.NoError(t, err)
	r := recorded{source: string(archive.Comment), status: http.StatusOK, header: http.Header{}}
	for _, f := range archive.Files {
		text := strings.TrimSpace(string(f.Data))
		switch f.Name {
		case "model":
			r.model = text
		case "kind":
			r.kind = text
		case "status":
			r.status, err = strconv.Atoi(text)
			require.NoError(t, err, file)
		case "header":
			for line := range strings.Lines(text) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				r.header.Add(name, value)
			}
		case "body":
			r.body = f.Data
		case "body.quoted":
			unquoted, err := strconv.Unquote(text)
			require.NoError(t, err, file)
			r.body = []byte(unquoted)
		case "want.json":
			r.want = text
		default:
			require.Fail(t, "unknown part", "%s: %s", file, f.Name)
		}
	}
	if row, ok := catalogue.Find(r.model); ok && r.kind == "" {
		r.kind = row.Kind
	}
	require.NotEmpty(t, r.kind, file)
	return r
}

// RoundTrip returns the recorded answer to any request.
func (r recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	return &http.Response{StatusCode: r.status, Header: r.header, Body: io.NopCloser(bytes.NewReader(r.body))}, nil
}

// ask sends a request of the recorded answer's kind and reports the outcome.
func (r recorded) ask(t *testing.T) (outcome, error) {
	client := &workersai.Client{AccountID: "a", Token: "t", HTTP: &http.Client{Transport: r}}
	var (
		out  outcome
		meta workersai.Meta
		err  error
	)
	switch r.kind {
	case "text":
		var g *workersai.Generation
		if g, meta, err = client.Generate(t.Context(), r.model, map[string]json.RawMessage{"prompt": []byte(`"Hi"`)}); err == nil {
			out = outcome{Text: g.Text, Reasoning: g.Reasoning, Refusal: g.Refusal, Finish: g.FinishReason}
			for _, c := range g.ToolCalls {
				out.Calls = append(out.Calls, call(c))
			}
		}
	case "embedding":
		var e *workersai.Embedding
		if e, meta, err = client.Embed(t.Context(), r.model, workersai.EmbedInput{Texts: []string{"a", "b"}}); err == nil {
			out.Vectors = e.Vectors
		}
	case "translation":
		in := workersai.TranslateInput{Texts: []string{"Hello"}, Target: "pt"}
		if row, _ := catalogue.Find(r.model); row.Answer == catalogue.Translations {
			in.Texts = []string{"Hello", "World"}
		}
		out.Texts, meta, err = client.Translate(t.Context(), r.model, in)
	case "transcription":
		var s *workersai.Transcript
		if s, meta, err = client.Transcribe(t.Context(), r.model, workersai.TranscribeInput{Audio: strings.NewReader("RIFF"), Size: 4}); err == nil {
			out = outcome{Text: s.Text, Language: s.Language, Duration: s.Duration, Segments: s.Segments, Words: s.Words, VTT: s.VTT}
		}
	case "image":
		var i *workersai.Image
		if i, meta, err = client.Image(t.Context(), r.model, workersai.ImageInput{Prompt: "a mill"}); err == nil {
			out.Image = fmt.Sprintf("%s %dx%d", i.ContentType, i.Width, i.Height)
		}
	}
	if out.Priced = meta.Priced; meta.Priced {
		out.Neurons = meta.Neurons
	}
	return out, err
}

// The answers of testdata come from outside: documented examples of the API, captures of
// public projects, and known variants of models and of intermediaries.
func TestEveryRecordedAnswerBecomesWhatItSays(t *testing.T) {
	files, err := filepath.Glob("testdata/answers/*.txtar")
	require.NoError(t, err)
	require.Greater(t, len(files), 80)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			r := readRecorded(t, file)
			require.Contains(t, r.source, "Source: ")
			var want outcome
			decoder := json.NewDecoder(strings.NewReader(r.want))
			decoder.DisallowUnknownFields()
			require.NoError(t, decoder.Decode(&want))

			got, err := r.ask(t)
			if want.Error == nil {
				require.NoError(t, err)
			} else {
				var api *workersai.Error
				require.ErrorAs(t, err, &api)
				got.Error = &failure{Class: api.Class().String(), Reason: string(api.Reason()), Code: api.Code, Lost: api.Lost()}
				if want.Error.Status != 0 {
					got.Error.Status = api.Status
				}
				if api.RetryAfter > 0 {
					got.Error.RetryAfter = api.RetryAfter.String()
				}
				require.Contains(t, api.Message, want.Error.Message)
				got.Error.Message = want.Error.Message
			}
			expected, err := json.Marshal(want)
			require.NoError(t, err)
			encoded, err := json.Marshal(got)
			require.NoError(t, err, "what the client returns can be encoded")
			require.JSONEq(t, string(expected), string(encoded))
		})
	}
}

// knownError is a row of testdata/errors.json.
type knownError struct {
	Code     int      `json:"code"`
	Status   int      `json:"http_status"` // 0 if not captured
	Messages []string `json:"messages"`
	Classes  []string `json:"classes"` // of each message, or of the code alone if it has no message
	Reasons  []string `json:"reasons"`
	Source   string   `json:"source"`
}

func knownErrors(t testing.TB) []knownError {
	t.Helper()
	raw, err := os.ReadFile("testdata/errors.json")
	require.NoError(t, err)
	var rows []knownError
	require.NoError(t, json.Unmarshal(raw, &rows))
	return rows
}

func TestEveryKnownErrorCodeHasItsClassAndReason(t *testing.T) {
	rows := knownErrors(t)
	require.Len(t, rows, 43)
	for _, row := range rows {
		require.NotEmpty(t, row.Source, row.Code)
		for i, message := range row.Messages {
			for _, status := range []int{row.Status, http.StatusOK} {
				if status == 0 {
					continue
				}
				e := &workersai.Error{Status: status, Code: row.Code, Message: "AiError: AiError: " + message + " (8700d6e7)"}
				require.Equal(t, row.Classes[i], e.Class().String(), "%d/%d %q", status, row.Code, message)
				require.Equal(t, row.Reasons[i], string(e.Reason()), "%d/%d %q", status, row.Code, message)
			}
		}
	}
}

// fields decodes a request's body.
func fields(t *testing.T, body string) map[string]json.RawMessage {
	t.Helper()
	var f map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(body), &f))
	return maps.Clone(f)
}
