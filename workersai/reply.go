package workersai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// bodyLimit is the maximum length of an answer in bytes.
const bodyLimit = 64 << 20

// reply is one answer of the API; a nil Response means no answer. It creates the errors
// about the answer, so that each has the request id and none has the token.
type reply struct {
	*http.Response
	start time.Time
	token string
}

// meta reads the headers. For a lost answer they are the only information.
func (r reply) meta() Meta {
	var m Meta
	if !r.start.IsZero() {
		m.Took = time.Since(r.start)
	}
	if r.Response == nil {
		return m
	}
	m.RequestID, m.Ray = r.clean(r.Header.Get("Cf-Ai-Req-Id"), 64), r.clean(r.Header.Get("Cf-Ray"), 64)
	if neurons, err := strconv.ParseFloat(r.Header.Get("Cf-Ai-Neurons"), 64); err == nil {
		m.price(neurons)
	}
	return m
}

func (r reply) close() {
	if r.Response != nil {
		r.Body.Close()
	}
}

// readRefusal reads an answer that is not 2xx. If its body is cut off, a status of 429 or
// 5xx is enough. With any other status the meaning depends on the code.
func (r reply) readRefusal() *Error {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil && len(body) == 0 && r.StatusCode != http.StatusTooManyRequests && r.StatusCode < 500 {
		return r.transportError(err)
	}
	return r.refusal(body)
}

func (r reply) readBody() ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, bodyLimit+1))
	if err != nil {
		return nil, r.transportError(err)
	}
	if len(body) > bodyLimit {
		return nil, r.tooLarge()
	}
	return body, nil
}

func (r reply) tooLarge() *Error {
	return r.unusable(fmt.Sprintf("the answer has more than %d bytes", bodyLimit))
}

// result reads a 2xx JSON answer, which may still be a refusal, and removes its envelope.
func (r reply) result() (json.RawMessage, error) {
	body, err := r.readBody()
	if err != nil {
		return nil, err
	}
	return r.open(body)
}

// decodeResult decodes a JSON answer into out. Fields of out that are json.RawMessage
// accept any type, so that an irrelevant field does not spoil a paid answer.
func (r reply) decodeResult(out any) error {
	result, err := r.result()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(result, out); err != nil {
		return r.unusable("the result has another shape than the model's")
	}
	return nil
}

// open removes the envelope from a JSON body. It ignores the content type.
func (r reply) open(body []byte) (json.RawMessage, error) {
	var e struct {
		errorForm
		Result json.RawMessage `json:"result"`
	}
	if err := decode(body, &e); err != nil {
		return nil, r.notJSON(body, err)
	}
	empty := len(e.Result) == 0 || string(e.Result) == "null"
	switch {
	case e.statement().found, empty && len(list(e.Errors)) > 0:
		refused := r.refusal(body)
		refused.lost = refused.Code == 0 && refused.Message == noReason
		return nil, refused
	case e.Result == nil && e.Success == nil:
		return body, nil // a gateway may remove the envelope
	case empty:
		return nil, r.unusable("the answer has no result")
	}
	return e.Result, nil
}

// notJSON distinguishes a body that was truncated or replaced in transit from invalid
// JSON of the model's server.
func (r reply) notJSON(body []byte, err error) *Error {
	trimmed := bytes.TrimSpace(body)
	isJSON := len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[')
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	switch {
	case !isJSON && r.mediaType() != "" && r.mediaType() != "application/json":
		return r.damaged("expected JSON, got " + r.clean(r.mediaType(), 60))
	case isJSON && (!ok || syntax.Offset < int64(len(body))):
		return r.unusable("the body is not the JSON of an answer")
	}
	return r.damaged("the body is not whole JSON")
}

func (r reply) mediaType() string {
	t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return strings.ToLower(t)
}
