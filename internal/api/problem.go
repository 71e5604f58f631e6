package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// Problem is the body of every answer that is an error (RFC 9457). It never repeats what
// the request contained.
type Problem struct {
	Type   string       `json:"type" format:"uri-reference" doc:"Page that explains the code." example:"/docs/errors#task_not_found"`
	Title  string       `json:"title" doc:"What the code means."`
	Status int          `json:"status"`
	Detail string       `json:"detail" doc:"What is wrong here, and what to do."`
	Code   string       `json:"code" doc:"Stable code, for programs." example:"task_not_found"`
	Errors []FieldError `json:"errors,omitempty" doc:"The fields that are wrong."`

	header http.Header
	task   string // id that the refused task would have had; may be empty
}

// FieldError describes the fault of one field of a request.
type FieldError struct {
	Field   string `json:"field" doc:"Path of the field: input.texts[3], or the name of a parameter; empty for the whole body."`
	Message string `json:"message"`
	Code    string `json:"code,omitempty" doc:"Stable code of this error."`
}

// newProblem makes the problem of a code in Codes. The detail must not repeat what the
// request contained. An empty detail means the code's advice.
func newProblem(code, detail string, errors ...FieldError) *Problem {
	info := codeInfo(code)
	if detail == "" {
		detail = info.Advice
	}
	p := &Problem{Type: "/docs/errors#" + info.Code, Title: info.Meaning, Status: info.Status, Detail: detail, Code: info.Code, header: http.Header{}}
	size := 0
	for i, e := range errors {
		e.Message = cut(e.Message, 300)
		if size += len(e.Field) + len(e.Message) + len(e.Code) + 50; size > mostErrors {
			p.Detail += fmt.Sprintf(" (and %d more)", len(errors)-i)
			break
		}
		p.Errors = append(p.Errors, e)
	}
	return p
}

// mostErrors bounds the bytes of Problem.Errors: an answer is below 4 KB.
const mostErrors = 2800

// retryAfter sets when the same request may succeed.
func (p *Problem) retryAfter(d time.Duration) *Problem {
	p.header.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))))
	p.header.Set("Retry-After-Ms", strconv.FormatInt(max(1, d.Milliseconds()), 10))
	return p
}

// with sets a header of the answer.
func (p *Problem) with(name, value string) *Problem {
	p.header.Set(name, value)
	return p
}

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// write answers a request with the problem.
func (p *Problem) write(w http.ResponseWriter) {
	h := w.Header()
	maps.Copy(h, p.header)
	if p.Status == http.StatusRequestEntityTooLarge || p.Status == http.StatusRequestTimeout {
		h.Set("Connection", "close") // the rest of the body is not read
	}
	h.Set("Content-Type", "application/problem+json")
	h.Del("Content-Length")
	body, _ := json.Marshal(p) // strings and numbers only
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n'))
}

// problemOf turns an error of a handler into its problem. The second value is the cause
// that belongs into the log; nil when the caller alone is concerned.
func problemOf(err error) (*Problem, error) {
	var own *Problem
	var invalid tasks.ValidationError
	switch {
	case errors.As(err, &own):
		return own, nil
	case errors.Is(err, tasks.ErrUnknownOutcome):
		return newProblem(tasks.CodeUnknownOutcome, "").retryAfter(time.Second), err
	case errors.As(err, &invalid):
		return invalidInput("", invalid), nil
	case tasks.CodeOf(err) != "":
		return newProblem(tasks.CodeOf(err), ""), nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return newProblem(codeTimedOut, "").retryAfter(time.Second), nil
	case isUnavailable(err):
		return newProblem(codeUnavailable, "").retryAfter(5 * time.Second), err
	}
	return newProblem(tasks.CodeInternalError, "Look for this request in the server's log, and report it."), err
}

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }

// isUnavailable reports whether an error comes from Redis or the bucket.
func isUnavailable(err error) bool {
	var server redis.Error
	var network net.Error
	return errors.As(err, &server) || errors.As(err, &network) || errors.Is(err, redis.ErrClosed) ||
		errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrNoBucket) || errors.Is(err, storage.ErrNotWritten)
}

// invalidInput describes the faults of a task. The fields of a payload are below
// inside: "input." for example.
func invalidInput(inside string, invalid tasks.ValidationError) *Problem {
	fields := make([]FieldError, len(invalid))
	for i, p := range invalid {
		fields[i] = FieldError{Field: safeField(inside+p.Field, nil), Message: withoutValues(p.Message), Code: p.Code}
	}
	return newProblem(invalid.Code(), "", fields...)
}

// The validation of package tasks repeats short values for people at a terminal, where
// they help: quoted, or first in the sentence.
var (
	quotedValue  = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	leadingModel = regexp.MustCompile(`^@\S+ (is|was) `)
	leadingValue = regexp.MustCompile(`^\S+ (is out of range)`)
)

// withoutValues removes the values of the request from a message of package tasks.
func withoutValues(message string) string {
	message = quotedValue.ReplaceAllString(message, "this value")
	message = leadingModel.ReplaceAllString(message, "this model $1 ")
	message = leadingValue.ReplaceAllString(message, "this value $1")
	message = strings.ReplaceAll(message, "--allow-unknown-model lets it through", "see GET /v1/models")
	return message
}

// safeField returns the path of a field, with unknown names shortened. Names of payloads
// are always known.
func safeField(path string, known map[string]bool) string {
	const most = 12
	var b strings.Builder
	for i, part := range strings.Split(path, ".") {
		if i > 0 {
			b.WriteByte('.')
		}
		name, index, _ := strings.Cut(part, "[")
		if index != "" {
			index = "[" + cut(index, most)
		}
		if !knownNames[name] && !known[name] {
			name = cut(name, most)
		}
		b.WriteString(name + index)
		if b.Len() > 100 {
			break
		}
	}
	return b.String()
}

// cut shortens a text to at most so many bytes of whole characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xC0 == 0x80 {
		most--
	}
	return s[:most] + "…"
}

// humaProblem makes the problem of an error that huma found. Its own form repeats values.
func humaProblem(ctx huma.Context, status int, message string, errs ...error) *Problem {
	var fields []FieldError
	code := ""
	for _, err := range errs {
		var p *Problem
		var detail huma.ErrorDetailer
		switch {
		case err == nil:
		case errors.As(err, &p):
			return p
		case errors.As(err, &detail):
			found := fieldError(ctx, detail.ErrorDetail())
			if found.Field == "" && found.Code != "" && code == "" {
				code = found.Code
			}
			fields = append(fields, found)
		}
	}
	switch status {
	case http.StatusRequestEntityTooLarge:
		return newProblem(codeBodyTooLarge, "")
	case http.StatusRequestTimeout:
		return newProblem(codeBodyTooSlow, "")
	case http.StatusUnsupportedMediaType:
		return newProblem(codeContentType, "")
	case http.StatusNotAcceptable:
		return newProblem(codeNotAcceptable, "")
	case http.StatusInternalServerError:
		if strings.HasPrefix(message, "cannot read request body") {
			return newProblem(codeBodyBroken, "")
		}
		return newProblem(tasks.CodeInternalError, "Look for this request in the server's log, and report it.")
	}
	switch {
	case strings.HasPrefix(message, "request body is required"):
		return newProblem(codeEmptyBody, "")
	case code != "":
		return newProblem(code, "", fields...)
	case len(fields) > 0 && !inBody(errs):
		return newProblem(codeParameter, "", fields...)
	}
	return newProblem(tasks.CodePayloadInvalid, "Correct the fields that errors names, and send the request again.", fields...)
}

func inBody(errs []error) bool {
	for _, err := range errs {
		var detail huma.ErrorDetailer
		if errors.As(err, &detail) && strings.HasPrefix(detail.ErrorDetail().Location, "body") {
			return true
		}
	}
	return false
}

// fieldError rewrites an error that huma found without the value.
func fieldError(ctx huma.Context, d *huma.ErrorDetail) FieldError {
	location := d.Location
	for _, place := range []string{"body.", "query.", "path.", "header."} {
		location = strings.TrimPrefix(location, place)
	}
	if location == "body" {
		location = ""
	}
	f := FieldError{Field: safeField(location, namesOf(ctx)), Message: d.Message}
	switch {
	case strings.HasPrefix(d.Message, "unexpected property"), strings.HasPrefix(d.Message, "unknown query parameter"):
		f.Code, f.Message = codeUnknownField, "no such field"+suggestion(ctx, location)
	case strings.HasPrefix(d.Message, "expected required property "):
		name, _, _ := strings.Cut(strings.TrimPrefix(d.Message, "expected required property "), " ")
		f.Code, f.Field, f.Message = codeFieldRequired, strings.TrimPrefix(f.Field+"."+name, "."), "is missing"
	case strings.Contains(d.Message, " parameter is missing"):
		f.Code, f.Message = codeFieldRequired, "is missing"
	case strings.HasPrefix(d.Message, "expected object") && location == "":
		f.Code, f.Message = codeExpectedObject, "the body must be one JSON object; for many tasks use POST /v1/tasks:batch"
	case typeMessage.MatchString(d.Message):
		f.Code, f.Message = codeFieldType, strings.Replace(d.Message, "expected", "wants", 1)
	case strings.HasPrefix(d.Message, "expected "):
		// Some messages end with the reason of a parser, which may repeat the value.
		message, _, _ := strings.Cut(strings.Replace(d.Message, "expected", "wants", 1), ": ")
		f.Code, f.Message = codeFieldRange, message
	case strings.HasPrefix(d.Message, jsonError):
		f.Code, f.Message = jsonCode(strings.TrimPrefix(d.Message, jsonError))
	default:
		f.Code, f.Message = codeFieldType, "cannot be read as the type that it should have"
	}
	return f
}

var typeMessage = regexp.MustCompile(`^expected (boolean|number|integer|string|array|object)$`)

// suggestion names the known field that is most similar to an unknown one.
func suggestion(ctx huma.Context, location string) string {
	if i := strings.LastIndexAny(location, ".]"); i >= 0 {
		location = location[i+1:]
	}
	return nearestName(location, namesOf(ctx))
}
