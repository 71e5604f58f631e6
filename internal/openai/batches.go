package openai

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// BatchRequest is the request that creates a batch.
type BatchRequest struct {
	InputFileID   string
	Endpoint      string
	Window        string        // completion_window as given: 24h
	Within        time.Duration // the same
	Metadata      map[string]string
	OutputExpires time.Duration // of the output files after their creation; 0 means never
	Webhook       string        // an extension: URL that is told of the end; not checked
}

// The bounds of a batch's completion_window, and of expires_after.
const (
	leastWindow  = time.Minute
	longestLife  = 30 * 24 * time.Hour
	leastExpires = time.Hour
)

// ParseBatch reads the JSON body that creates a batch. The error is an *Error for the
// client.
func ParseBatch(body []byte) (*BatchRequest, error) {
	f, err := readFields(body)
	if err != nil {
		return nil, err
	}
	b := &BatchRequest{InputFileID: f.text("input_file_id"), Endpoint: f.text("endpoint"), Window: f.text("completion_window"), Webhook: f.text("webhook")}
	for _, name := range []string{"input_file_id", "endpoint", "completion_window"} {
		if !f.has(name) {
			f.fail(name, "is missing")
		}
	}
	f.only("endpoint", "must be one of "+strings.Join(BatchEndpoints, ", "), BatchEndpoints...)
	if b.Within = window(b.Window); b.Within < leastWindow || b.Within > longestLife {
		f.fail("completion_window", "must be a time such as 24h or 7d, from 1m to 30d")
	}
	b.Metadata = f.metadata()
	if f.has("output_expires_after") {
		expires := f.object("output_expires_after")
		b.OutputExpires = expiresAfter(expires)
		f.take(expires)
	}
	if f.err != nil {
		return nil, f.err
	}
	return b, nil
}

// metadata reads up to 16 short texts.
func (f *fields) metadata() map[string]string {
	m := value[map[string]string](f, "metadata", "an object of strings")
	if len(m) > 16 {
		f.fail("metadata", "has more than 16 pairs")
	}
	for k, v := range m {
		switch {
		case k == "" || utf8.RuneCountInString(k) > 64 || utf8.RuneCountInString(v) > 512:
			f.fail("metadata", "takes keys of 1 to 64 and values of at most 512 characters")
		case strings.ContainsFunc(k+v, unicode.IsControl):
			f.fail("metadata", "has a control character")
		}
	}
	return m
}

// window reads a duration, which may be in days; 0 if it is none.
func window(text string) time.Duration {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n > 366 {
			return 0
		}
		return time.Duration(n) * 24 * time.Hour
	}
	d, _ := time.ParseDuration(text)
	return d
}

// expiresAfter reads {"anchor": "created_at", "seconds": n}.
func expiresAfter(f *fields) time.Duration {
	if f.text("anchor") != "created_at" {
		f.fail("anchor", "must be created_at")
	}
	seconds := time.Duration(value[int32](f, "seconds", "a whole number")) * time.Second
	if seconds < leastExpires || seconds > longestLife {
		f.fail("seconds", "must be from 3600 to 2592000")
	}
	return seconds
}

// ExpiresAfter reads the fields expires_after[anchor] and expires_after[seconds] of a form;
// 0 when there are none. The error is an *Error for the client.
func ExpiresAfter(form map[string][]string) (time.Duration, error) {
	f := &fields{members: map[string]jsontext.Value{}, prefix: "expires_after."}
	for _, name := range []string{"anchor", "seconds"} {
		given := form["expires_after["+name+"]"]
		if len(given) == 0 {
			continue
		}
		f.members[name] = formValue(name, given[0])
		if n, err := strconv.Atoi(given[0]); name == "seconds" && err == nil {
			f.members[name] = jsontext.Value(strconv.Itoa(n))
		}
	}
	if len(f.members) == 0 {
		return 0, nil
	}
	d := expiresAfter(f)
	if f.err != nil {
		return 0, f.err
	}
	return d, nil
}

// LineRequest is one line of a batch file.
type LineRequest struct {
	CustomID string         `json:"custom_id"`
	Method   string         `json:"method"`
	URL      string         `json:"url"`
	Body     jsontext.Value `json:"body"`
}

// responseOptions are the parts of a request, beside its model, on which its response
// depends.
type responseOptions struct {
	Base64     bool   `json:"base64,omitzero"`
	One        bool   `json:"one,omitzero"`
	Format     string `json:"format,omitzero"`
	Words      bool   `json:"words,omitzero"`
	Characters int    `json:"characters,omitzero"`
}

// ResponseOptions returns, as JSON, the parts of the request that shape its response.
func (r *Request) ResponseOptions() ([]byte, error) {
	return json.Marshal(responseOptions{r.base64, r.one, r.format, r.words, r.characters})
}

// Restore makes a request of which only the response is to be written. No options are the
// usual ones.
func Restore(endpoint, model string, options []byte) (*Request, error) {
	var o responseOptions
	if len(options) > 0 {
		if err := json.Unmarshal(options, &o); err != nil {
			return nil, fmt.Errorf("decode the options of a response: %w", err)
		}
	}
	r := &Request{Endpoint: endpoint, Model: model, base64: o.Base64, one: o.One, format: o.Format, words: o.Words, characters: o.Characters}
	switch endpoint {
	case Embeddings:
		r.Payload = tasks.Embedding{}
	case Images:
		r.Payload = tasks.Image{}
	case TextTranslations:
		r.Payload = tasks.Translation{}
	case Transcriptions, Translations:
		r.Payload = tasks.Transcription{}
	default:
		r.Payload = tasks.Text{}
	}
	return r, nil
}
