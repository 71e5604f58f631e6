// Package openai translates between the bodies of OpenAI's API and tasks. It reads the
// request of an endpoint as a task's payload, and writes a task's result as the response
// that OpenAI's SDKs expect. It knows no HTTP and no Redis: the synchronous routes and the
// lines of batches share it.
//
// Fields that the package does not know are ignored, as SDKs send new ones every month. A
// known field that would change the answer, and that no model here can honour, is refused
// with an Error that names it.
package openai

import (
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

// The endpoints.
const (
	Embeddings     = "/v1/embeddings"
	Chat           = "/v1/chat/completions"
	Images         = "/v1/images/generations"
	Transcriptions = "/v1/audio/transcriptions"
	Translations   = "/v1/audio/translations" // of speech into English text
	// TextTranslations is an extension for the lines of batches.
	TextTranslations = "/v1/translations"
)

// Endpoints lists the endpoints that Parse reads.
var Endpoints = []string{Embeddings, Chat, Images, Transcriptions, Translations}

// BatchEndpoints lists the endpoints that ParseLine reads.
var BatchEndpoints = append(slices.Clone(Endpoints), Responses, TextTranslations)

// Request is a request to one endpoint, as a task.
type Request struct {
	Endpoint string
	Payload  tasks.Payload
	Model    string            // the id of the Workers AI model
	Metadata map[string]string // the request's own, for the task
	Stream   bool              // the client wants server-sent events

	// FileID is the id of an uploaded file with the recording. The caller replaces it by
	// the file's object with SetAudio. It is empty for other endpoints and for a URL.
	FileID string

	base64       bool   // of embeddings: encoding_format
	one          bool   // of chat: at most one tool call
	includeUsage bool   // of chat: a last chunk with the usage
	single       bool   // of embeddings: input is one text, not a list
	format       string // of transcriptions: response_format
	words        bool   // of transcriptions: timestamps of words
	characters   int    // of the input, to estimate tokens
}

// Kind returns the kind of the request's task.
func (r *Request) Kind() tasks.Kind { return r.Payload.Kind() }

// SetAudio sets the object in the bucket with the recording of a transcription.
func (r *Request) SetAudio(key string) {
	if t, ok := r.Payload.(tasks.Transcription); ok {
		t.Audio = tasks.Audio{Key: key}
		r.Payload = t
	}
}

// Parse reads the JSON body of a request. The error is an *Error for the client.
func Parse(endpoint string, body []byte) (*Request, error) {
	f, err := readFields(body)
	if err != nil {
		return nil, err
	}
	r := &Request{Endpoint: endpoint}
	switch endpoint {
	case Embeddings:
		r.embeddings(f)
	case Chat:
		r.chat(f)
	case Responses:
		r.response(f)
	case Images:
		r.images(f)
	case Transcriptions, Translations:
		r.transcription(speechFields(f))
	case TextTranslations:
		r.translation(f)
	default:
		return nil, invalid("", "this endpoint is not supported; there are %s", strings.Join(Endpoints, ", "))
	}
	return r.finish(f)
}

// ParseLine reads the body of one line of a batch. It refuses in addition what a line
// cannot have: a stream, or an answer that is not JSON.
func ParseLine(endpoint string, body []byte) (*Request, error) {
	r, err := Parse(endpoint, body)
	switch {
	case err != nil:
		return nil, err
	case r.Stream:
		return nil, invalid("stream", "a line of a batch cannot be streamed; leave stream out")
	case r.format == "text" || r.format == "srt" || r.format == "vtt":
		return nil, invalid("response_format", "a line of a batch takes json or verbose_json")
	}
	return r, nil
}

// finish checks the model and the payload.
func (r *Request) finish(f *fields) (*Request, error) {
	if f.err != nil {
		return nil, f.err
	}
	name := f.text("model")
	if f.err != nil {
		return nil, f.err
	}
	id, err := modelFor(name, r.Kind())
	if err != nil {
		return nil, err
	}
	r.Model = id
	if !r.awaitsAudio() {
		if err := r.Payload.Validate(); err != nil {
			return nil, r.Refusal(err)
		}
	}
	return r, nil
}

// awaitsAudio reports whether the payload lacks its recording, which the caller uploads.
func (r *Request) awaitsAudio() bool {
	t, ok := r.Payload.(tasks.Transcription)
	return ok && t.Audio == tasks.Audio{}
}

// modelFor returns the id of a model: the id itself, or the last part of it if that is
// unambiguous, such as bge-m3.
func modelFor(name string, kind tasks.Kind) (string, error) {
	example := catalogue.Default(string(kind)).ID
	if name == "" {
		return "", invalid("model", "is missing; a model's id looks like %s", example)
	}
	m, known := find(name)
	switch {
	case !known:
		return "", noModel("the model does not exist here; GET /v1/models lists the models, for example %s", example)
	case m.Withdrawn(time.Now()) && m.Successor != "":
		return "", noModel("%s was withdrawn on %s; use %s", m.ID, m.WithdrawnOn, m.Successor)
	case m.Withdrawn(time.Now()):
		return "", noModel("%s was withdrawn on %s; GET /v1/models lists the models", m.ID, m.WithdrawnOn)
	case m.Kind != string(kind):
		e := invalid("model", "%s does not do this; use for example %s", m.ID, example)
		e.Code = "model_not_supported"
		return "", e
	}
	return m.ID, nil
}

func find(name string) (catalogue.Model, bool) {
	if m, ok := catalogue.Find(name); ok {
		return m, true
	}
	var found []catalogue.Model
	if !strings.Contains(name, "/") {
		found = slices.DeleteFunc(catalogue.All(), func(m catalogue.Model) bool {
			return m.Kind == "" || !strings.HasSuffix(m.ID, "/"+name)
		})
	}
	if len(found) != 1 {
		return catalogue.Model{}, false
	}
	return found[0], true
}
