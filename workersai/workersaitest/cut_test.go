package workersaitest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// question is one call of a model and its answer.
type question func(t *testing.T, c *workersai.Client, model string) (any, error)

// questions has a few calls of every kind, enough for an answer of each form.
var questions = map[string][]question{
	"text": {
		generate(`{"prompt":"día"}`),
		generate(`{"prompt":"x","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}]}`),
		generate(`{"prompt":"x","response_format":{"type":"json_schema","json_schema":{"type":"object","properties":{"ok":{"type":"boolean"}}}}}`),
	},
	"embedding": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		out, _, err := c.Embed(t.Context(), model, workersai.EmbedInput{Texts: []string{"red", "green"}})
		return out, err
	}},
	"translation": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		row, _ := catalogue.Find(model)
		in := workersai.TranslateInput{Texts: []string{"día"}, Target: row.Languages()[3]}
		if row.Answer == catalogue.Translations {
			in.Texts = append(in.Texts, "noche")
		}
		out, _, err := c.Translate(t.Context(), model, in)
		return out, err
	}},
	"image": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		out, _, err := c.Image(t.Context(), model, workersai.ImageInput{Prompt: "a mill", Width: 256, Height: 256})
		return out, err
	}},
	"transcription": {func(t *testing.T, c *workersai.Client, model string) (any, error) {
		second := workersaitest.SampleWAV()[:44+32000]
		out, _, err := c.Transcribe(t.Context(), model, workersai.TranscribeInput{
			Audio: bytes.NewReader(second), Size: int64(len(second)), ContentType: "audio/wav",
		})
		return out, err
	}},
}

func generate(body string) question {
	return func(t *testing.T, c *workersai.Client, model string) (any, error) {
		out, _, err := c.Generate(t.Context(), model, fields(t, body))
		return out, err
	}
}

// tape is a transport that records an answer and replays it up to a given byte.
type tape struct {
	header http.Header
	body   []byte
	end    error // returned after the last byte
}

// record sends one request and keeps its answer.
func (p *tape) record(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		p.header = resp.Header
		if p.body, err = io.ReadAll(resp.Body); err != nil {
			return nil, err
		}
		return p.upTo(len(p.body)).RoundTrip(req)
	})
}

func (p *tape) upTo(n int) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		req.Body.Close()
		body := io.Reader(bytes.NewReader(p.body[:n]))
		if p.end != nil {
			body = io.MultiReader(body, iotest.ErrReader(p.end))
		}
		return &http.Response{StatusCode: http.StatusOK, Header: p.header, Body: io.NopCloser(body), Request: req}, nil
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// recording is an answer of one form, with its decoded value.
type recording struct {
	tape
	model string
	ask   question
	whole any
}

// recordings returns the shortest answer of each form among the models of the catalogue.
func recordings(t *testing.T) map[string]recording {
	client := workersaitest.New(workersaitest.Options{NoLimits: true}).Client()
	emulator := client.HTTP.Transport
	shortest := map[string]recording{}
	for kind, some := range questions {
		for _, model := range live(kind) {
			row, _ := catalogue.Find(model)
			for i, ask := range some {
				r := recording{model: model, ask: ask}
				client.HTTP = &http.Client{Transport: r.record(emulator)}
				var err error
				r.whole, err = ask(t, client, model)
				require.NoError(t, err, model)
				form := fmt.Sprint(kind, " ", row.Answer, " ", r.header.Get("Content-Type"), " ", i)
				if other, ok := shortest[form]; !ok || len(r.body) < len(other.body) {
					shortest[form] = r
				}
			}
		}
	}
	return shortest
}

// withoutTokens leaves out the counts of tokens, which an answer may lack.
func withoutTokens(answer any) any {
	g, ok := answer.(*workersai.Generation)
	if !ok || g == nil {
		return answer
	}
	same := *g
	same.InputTokens, same.OutputTokens = 0, 0
	return &same
}

// An answer may break off with an error. Or an intermediary may shorten it so that it
// seems complete. Either is a lost answer that may have been billed.
func TestAnAnswerCutAtAnyByteIsNeverTakenForWhole(t *testing.T) {
	ends := map[string]error{"broken": io.ErrUnexpectedEOF, "quiet": nil}
	for form, r := range recordings(t) {
		for way, end := range ends {
			t.Run(form+" "+way, func(t *testing.T) {
				r.end = end
				client := &workersai.Client{AccountID: "a", Token: "t"}
				for n := range r.body {
					client.HTTP = &http.Client{Transport: r.upTo(n)}
					got, err := r.ask(t, client, r.model)
					if err == nil {
						require.True(t, reflect.DeepEqual(withoutTokens(r.whole), withoutTokens(got)), "cut at %d of %d it gives another answer", n, len(r.body))
						continue
					}
					api, ok := errors.AsType[*workersai.Error](err)
					require.True(t, ok && api.Class() == workersai.Transient && api.Lost(), "cut at %d of %d: %v", n, len(r.body), err)
				}
			})
		}
	}
}
