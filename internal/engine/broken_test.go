package engine_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// form is a format of answers. Each kind has at least one.
type form struct {
	model   string
	payload func(r *rig) tasks.Payload
	bad     []string // invalid bodies in this form, beside those invalid in every form
}

var forms = map[string]form{
	"a streamed text": {"@cf/zai-org/glm-4.7-flash", prompt(`{"prompt":"three rivers"}`),
		[]string{"data: {\"choices\":[{\"delta\":{\"content\":\"You\"}}]}\n\n", "data: {\"choices\":[\n\ndata: [DONE]\n\n", "data: [DONE]\n\n"}},
	"a streamed tool call": {"@cf/zai-org/glm-4.7-flash", prompt(`{"prompt":"weather in Lisbon?","tools":[{"type":"function","function":{"name":"weather",
		"parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]}`),
		[]string{"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n"}},
	"a text in one piece": {"@cf/meta/llama-3.3-70b-instruct-fp8-fast", prompt(`{"prompt":"x","response_format":{"type":"json_schema","json_schema":{"type":"object","properties":{"ok":{"type":"boolean"}}}}}`),
		[]string{`{"result":{"usage":{}}}`, `{"result":{"tool_calls":[{"arguments":{}}]}}`, `{"choices":[]}`}},
	"vectors": {"@cf/baai/bge-small-en-v1.5", payload(tasks.Embedding{Texts: []string{"red", "green"}}),
		[]string{`{"result":{"data":[]}}`, `{"result":{"data":[[1,2]]}}`, `{"result":{"data":[[1],[2]]}}`, `{"result":{"data":[["a"],["b"]]}}`, `{"result":{"data":[[1e999],[1]]}}`}},
	"a translation": {"@cf/meta/m2m100-1.2b", payload(tasks.Translation{Text: "hello", TargetLang: "es"}),
		[]string{`{"result":{"translated_text":""}}`, `{"result":{"translated_text":7}}`, `{"result":{"translations":["hola","mundo"]}}`}},
	"a list of translations": {"@cf/ai4bharat/indictrans2-en-indic-1B", payload(tasks.Translation{Text: "hello", TargetLang: "hin_Deva"}),
		[]string{`{"result":{"translations":[]}}`, `{"result":{"translations":["a","b"]}}`, `{"result":{"translations":"a"}}`}},
	"a picture in base64": {"@cf/black-forest-labs/flux-2-klein-4b", payload(tasks.Image{Prompt: "a mill", Width: 256, Height: 256}),
		[]string{`{"result":{"image":""}}`, `{"result":{"image":"%%%"}}`, inBase64("these are words"), inBase64("\xFF\xD8\xFF\xDB half a picture"), "these are words"}},
	"a picture in bytes": {"@cf/bytedance/stable-diffusion-xl-lightning", payload(tasks.Image{Prompt: "a mill", Width: 256, Height: 256}),
		[]string{"\x89PNG\r\n\x1a\n", "GIF89a is another format", "these are words"}},
	"a transcript with segments": {"@cf/openai/whisper-large-v3-turbo", recording,
		[]string{`{"result":{"word_count":3}}`, `{"result":{"text":7}}`, `{"result":{"text":null}}`}},
	"a transcript of channels": {"@cf/deepgram/nova-3", recording,
		[]string{`{"result":{"results":{}}}`, `{"result":{"results":{"channels":[]}}}`, `{"result":{"results":{"channels":"none"}}}`}},
}

// noAnswers lists bodies that are invalid in every form.
var noAnswers = []string{"", "null", "[]", "{}", "<html>bad gateway</html>", `{"success":true,"result":null}`, `{"result":{}}`, `{"result":[]}`, `{"result":"text"}`, `{"success":false}`}

func prompt(body string) func(*rig) tasks.Payload {
	return func(r *rig) tasks.Payload {
		p, err := tasks.Parse(tasks.KindText, []byte(body))
		require.NoError(r.t, err)
		return p
	}
}

func payload(p tasks.Payload) func(*rig) tasks.Payload { return func(*rig) tasks.Payload { return p } }

func recording(r *rig) tasks.Payload {
	return tasks.Transcription{Audio: tasks.Audio{Key: r.put("default/files/f1/call.wav", string(workersaitest.SampleWAV()[:44+32000]))}}
}

func inBase64(picture string) string {
	return fmt.Sprintf(`{"result":{"image":%q}}`, base64.StdEncoding.EncodeToString([]byte(picture)))
}

// scissors cut the next answer, and measure the answers that pass.
type scissors struct {
	next http.RoundTripper

	mu    sync.Mutex
	at    int   // -1 for no cut
	end   error // error after the cut; nil ends the body as if it were complete
	whole int   // length of the last answer in bytes
}

func (s *scissors) cut(at int, end error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.end = at, end
}

// RoundTrip implements http.RoundTripper.
func (s *scissors) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	at, end := s.at, s.end
	s.at = -1
	s.mu.Unlock()
	resp, err := s.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		resp.Body = &measured{ReadCloser: resp.Body, s: s}
		return resp, nil
	}
	body := io.LimitReader(resp.Body, int64(at))
	if end != nil {
		body = io.MultiReader(body, iotest.ErrReader(end))
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{body, resp.Body}
	return resp, nil
}

type measured struct {
	io.ReadCloser
	s *scissors
	n int
}

func (m *measured) Read(b []byte) (int, error) {
	n, err := m.ReadCloser.Read(b)
	m.n += n
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.whole = m.n
	return n, err
}

// troubled is a form under test with the expected outcome of its task.
type troubled struct {
	*rig
	form
	shears *scissors
	whole  string
}

// eachForm runs a story with every form, each in its own system.
func eachForm(t *testing.T, story func(t *testing.T, r *troubled)) {
	for name, f := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alone(t, func(t *testing.T, r *rig) {
				p := f.payload(r)
				r.cfg.Kinds = []tasks.Kind{p.Kind()}
				shears := &scissors{next: r.cfg.AI.HTTP.Transport, at: -1}
				r.cfg.AI.HTTP = &http.Client{Transport: shears}
				r.work()
				x := &troubled{rig: r, form: f, shears: shears}
				x.whole = x.outcome(x.once())
				story(t, x)
			})
		})
	}
}

// once runs one task to its result.
func (x *troubled) once() *tasks.Result {
	x.t.Helper()
	return x.wait(x.enqueue(x.payload(x.rig), tasks.WithModel(x.model)))
}

// tokenCounts are the parts of an answer that the API may leave out.
var tokenCounts = regexp.MustCompile(`,"(in|out)put_tokens":\d+`)

// outcome returns the result without the id and the token counts.
func (x *troubled) outcome(result *tasks.Result) string {
	x.t.Helper()
	require.Nil(x.t, result.Error)
	all := tokenCounts.ReplaceAllString(string(result.Output), "")
	for _, a := range result.Artefacts {
		all += fmt.Sprintf(" %s %x", a.ContentType, sha256.Sum256(x.read(a.Key)))
	}
	return strings.ReplaceAll(all, result.ID, "ID")
}

// again runs a task whose first answer is unusable. The outcome equals that of an
// undisturbed task. The result includes the cost of the lost answer, or says that it may
// have been billed where its price is unknown.
func (x *troubled) again(why string, args ...any) {
	x.t.Helper()
	sent := len(x.ai.Requests())
	result := x.once()
	why = fmt.Sprintf(why, args...)
	require.Equal(x.t, tasks.Completed, result.Status, why)
	require.Equal(x.t, x.whole, x.outcome(result), why)
	require.Equal(x.t, 2, result.Usage.Calls, why)
	require.LessOrEqual(x.t, result.Usage.Unsettled, 1, why)
	calls := x.ai.Requests()[sent:]
	require.Len(x.t, calls, 2, why)
	billed := calls[1].Neurons
	if result.Usage.Unsettled == 0 {
		billed += calls[0].Neurons
	}
	require.GreaterOrEqual(x.t, result.Usage.Neurons, billed-0.0002, why) // the header has four decimals
}

func TestACutAnswerOfAnyKindIsAskedForAgainAndUnsettled(t *testing.T) {
	eachForm(t, func(t *testing.T, x *troubled) {
		size := x.shears.whole
		require.Positive(t, size)
		// Package workersaitest tests every byte where answers are parsed.
		for _, at := range []int{0, 1, size / 3, size / 2, size * 3 / 4} {
			for _, end := range []error{io.ErrUnexpectedEOF, nil} {
				x.shears.cut(at, end)
				x.again("cut at %d of %d, %v", at, size, end)
			}
		}
	})
}

func TestAMalformedAnswerOfAnyKindIsAskedForAgainAndUnsettled(t *testing.T) {
	eachForm(t, func(t *testing.T, x *troubled) {
		for _, body := range slices.Concat(noAnswers, x.bad) {
			contentType := "application/json"
			if strings.HasPrefix(body, "data:") {
				contentType = "text/event-stream"
			}
			x.ai.Reset()
			x.ai.Fault(workersaitest.Fault{To: 1, Status: http.StatusOK, Header: http.Header{"Content-Type": {contentType}}, Body: body})
			x.again("%q", body)
		}
	})
}

// An answer with usable content is accepted, with any other oddity.
func TestAnOddAnswerOfAnyKindCostsOneCall(t *testing.T) {
	eachForm(t, func(t *testing.T, x *troubled) {
		for _, o := range workersaitest.Oddities() {
			if !o.Usable {
				continue
			}
			x.ai.Reset()
			x.ai.Fault(workersaitest.Fault{To: 1, Odd: o.Name})
			result := x.once()
			require.Equal(t, x.whole, x.outcome(result), o.Name)
			require.Equal(t, []int{1, 0}, []int{result.Usage.Calls, result.Usage.Unsettled}, o.Name)
			require.Len(t, x.ai.Requests(), 1, o.Name)
		}
	})
}

func TestAnAnswerOfAnyKindMayComeSlowlyOrNotAtAll(t *testing.T) {
	realtest.Long(t)
	eachForm(t, func(t *testing.T, x *troubled) {
		spec, _ := tasks.SpecOf(x.form.payload(x.rig).Kind())
		x.ai.Fault(workersaitest.Fault{To: 1, Hang: true})
		start := time.Now()
		x.again("it hangs")
		require.WithinDuration(t, start.Add(spec.Timeout), time.Now(), 30*time.Second, "only the kind's time limit ends a call")

		x.ai.Reset()
		x.ai.Fault(workersaitest.Fault{To: 1, Trickle: 2 * spec.Timeout / time.Duration(x.shears.whole)})
		x.again("it trickles for too long")

		x.ai.Reset()
		x.ai.Fault(workersaitest.Fault{To: 1, Trickle: spec.Timeout / 2 / time.Duration(x.shears.whole)})
		result := x.once()
		require.Equal(t, x.whole, x.outcome(result), "it trickles in time")
		require.Equal(t, []int{1, 0}, []int{result.Usage.Calls, result.Usage.Unsettled})
	})
}
