package openaibatch

import (
	"context"
	stdjson "encoding/json" // as package tasks encodes payloads
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/internal/batch"
	"github.com/neuronmill/neuronmill/internal/files"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/tasks"
)

// The codes of refused files, beside those of package batch.
const (
	codeEmptyFile  = "empty_file"
	codeTooMany    = "too_many_tasks"
	codeCompressed = "compressed_input"
	codeMissing    = "missing_required_parameter"
	codeInvalidID  = "invalid_custom_id"
	codeDuplicate  = "duplicate_custom_id"
	codeMethod     = "invalid_method"
	codeURL        = "url_mismatch"
	codeField      = "invalid_request"
	codeNoFile     = "input_file_not_found"
	codeNoModel    = "model_not_found"
)

// extra is kept with a line for its output.
type extra struct {
	Options jsontext.Value `json:"options,omitzero"`  // see openai.Restore
	Refusal *refusal       `json:"refusal,omitempty"` // of a line that fails alone
}

// refusal is the response to the request of such a line.
type refusal struct {
	Status int            `json:"status"`
	Body   jsontext.Value `json:"body"`
}

// reader reads the lines of a file as requests to one endpoint.
type reader struct {
	ctx      context.Context //nolint:containedctx // a batch.Format has none
	endpoint string
	client   *tasks.Client
	files    files.Files
	most     int // lines
}

var errTooMany = errors.New("the file has too many lines")

// format reads up to most lines.
func (r *reader) format(file io.Reader) iter.Seq2[*batch.Line, error] {
	return func(yield func(*batch.Line, error) bool) {
		n := 0
		for l, err := range batch.PerLine(r.line)(file) {
			if n++; err == nil && n > r.most {
				yield(nil, errTooMany)
				return
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// line reads one line. A fault of its form refuses the file; a fault of the request in it
// fails the line alone, as the endpoint itself would answer.
func (r *reader) line(l *batch.Line, text []byte) {
	var q openai.LineRequest
	if err := json.Unmarshal(text, &q); err != nil {
		refuse(l, codeOf(err), "", describe(err))
		return
	}
	l.ID = q.CustomID
	switch {
	case q.CustomID == "":
		refuse(l, codeMissing, "custom_id", "is missing")
	case len(q.CustomID) > mostID || strings.ContainsFunc(q.CustomID, hidden):
		l.ID = ""
		refuse(l, codeInvalidID, "custom_id", fmt.Sprintf("must have at most %d bytes and no control or invisible characters", mostID))
	case q.Method == "":
		refuse(l, codeMissing, "method", "is missing")
	case q.Method != "POST":
		refuse(l, codeMethod, "method", "must be POST")
	case q.URL == "":
		refuse(l, codeMissing, "url", "is missing")
	case q.URL != r.endpoint:
		refuse(l, codeURL, "url", "must be the endpoint of the batch, "+r.endpoint)
	case len(q.Body) == 0 || q.Body.Kind() == 'n':
		refuse(l, codeMissing, "body", "is missing")
	case q.Body.Kind() != '{':
		refuse(l, codeField, "body", "must be an object")
	default:
		r.body(l, q.Body)
	}
}

// mostID is the most bytes of a custom_id.
const mostID = 512

func hidden(c rune) bool { return unicode.Is(unicode.Cf, c) || unicode.IsControl(c) }

// refuse refuses the file because of a line.
func refuse(l *batch.Line, code, param, message string) {
	l.Problem = &batch.Problem{Line: l.Number, ID: l.ID, Code: code, Param: param, Message: message}
}

func codeOf(err error) string {
	syntactic, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok:
		return codeField
	case strings.Contains(syntactic.Error(), "invalid UTF-8") || strings.Contains(syntactic.Error(), "surrogate"):
		return batch.CodeInvalidUTF8
	}
	return "invalid_json_line"
}

// describe describes an error of the JSON library without the values of the line.
func describe(err error) string {
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return fmt.Sprintf("has a field twice, at byte %d", syntactic.ByteOffset)
		}
		return fmt.Sprintf("is not valid JSON at byte %d", syntactic.ByteOffset)
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok && semantic.JSONPointer != "" {
		return strings.TrimPrefix(string(semantic.JSONPointer), "/") + " must be a string"
	}
	return "must be a JSON object"
}

// body reads the request of a line.
func (r *reader) body(l *batch.Line, body jsontext.Value) {
	q, err := openai.ParseLine(r.endpoint, body)
	if err == nil {
		err = r.accept(l, q)
	}
	if err == nil {
		return
	}
	e, ok := errors.AsType[*openai.Error](err)
	if !ok && q != nil {
		e = q.Refusal(err)
	}
	if e == nil {
		e = openai.Internal()
	}
	if e.Code == codeNoModel {
		refuse(l, codeNoModel, "body.model", e.Message)
		return
	}
	kept, err := json.Marshal(extra{Refusal: &refusal{e.Status, e.Body()}})
	if err != nil { // a response is valid JSON
		refuse(l, codeField, "body", "is not valid")
		return
	}
	l.Extra = kept
	l.Problem = &batch.Problem{Line: l.Number, ID: l.ID, Code: codeField, Param: e.Param, Message: e.Message, Alone: true}
}

// accept makes a line of a request.
func (r *reader) accept(l *batch.Line, q *openai.Request) error {
	if q.FileID != "" {
		if _, err := r.files.Get(r.ctx, q.FileID); err != nil {
			return openai.Invalid("file", "there is no such file")
		}
		q.SetAudio(r.files.Key(q.FileID))
	}
	if err := r.client.CheckPayload(q.Payload, q.Model); err != nil {
		return err
	}
	options, err := q.ResponseOptions()
	if err != nil {
		return err
	}
	l.Kind, l.Model = q.Kind(), q.Model
	if l.Input, err = stdjson.Marshal(q.Payload); err != nil {
		return err
	}
	l.Extra, err = json.Marshal(extra{Options: options})
	return err
}

// lineError turns a problem of package batch into OpenAI's form.
func lineError(p batch.Problem) LineError {
	e := LineError{Code: p.Code, Message: p.Message, Line: &p.Line}
	switch p.Code {
	case batch.CodeDuplicateID:
		e.Code, p.Param = codeDuplicate, "custom_id"
		e.Message = strings.Replace(p.Message, "the id is", "is", 1)
	}
	if p.Param != "" {
		e.Param = &p.Param
		e.Message = p.Param + ": " + e.Message
	}
	return e
}
