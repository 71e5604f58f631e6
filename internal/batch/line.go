package batch

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/neuronmill/neuronmill/tasks"
)

// LineLimit is the maximum length of a line in bytes, without its end.
const LineLimit = 1 << 20

// idLimit is the maximum length of a line's id in bytes.
const idLimit = 512

// Line is one line of a file: the input of one task.
type Line struct {
	Number  int    // from 1, as an editor counts
	ID      string // unique in the file
	Kind    tasks.Kind
	Model   string         // never empty in a valid line
	Input   jsontext.Value // the payload; valid until the next line is read
	Payload tasks.Payload  // the same, decoded
	Extra   jsontext.Value // of the format, kept with the line for its output; may be nil
	Problem *Problem       // why the line is not valid; nil for a valid one

	content digest // of a valid line
	first   *place // of the line that this one equals; nil for none
	from    string // where its output is stored, see finder.of; empty when it is not
}

// Problem describes one fault of a line.
type Problem struct {
	Line    int    `json:"line"`
	ID      string `json:"id,omitempty"` // empty when the line has none
	Code    string `json:"code"`
	Message string `json:"message"` // one line that names the field
	Param   string `json:"param,omitempty"`
	// Alone is set when the line fails alone. Other problems refuse the whole file, unless
	// SkipInvalid is set.
	Alone bool `json:"alone,omitempty"`
}

func (p *Problem) Error() string {
	if p.ID != "" {
		return fmt.Sprintf("line %d (%s): %s", p.Line, p.ID, p.Message)
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Message)
}

// The codes of invalid lines, beside payload_invalid and its relatives of package tasks.
const (
	CodeInvalidJSON  = "invalid_json"
	CodeInvalidUTF8  = "invalid_utf8"
	CodeUnknownField = "unknown_field"
	CodeFieldType    = "field_type"
	CodeMissingField = "missing_field"
	CodeInvalidID    = "invalid_id"
	CodeDuplicateID  = "duplicate_id"
	CodeTooLarge     = "line_too_large"
	CodeInvalidCSV   = "invalid_csv"
)

// wrong makes the problem of a line.
func (l *Line) wrong(code, format string, args ...any) {
	l.Problem = &Problem{Line: l.Number, ID: l.ID, Code: code, Message: fmt.Sprintf(format, args...)}
}

// checkID reports an id that could not be told from another, or would break a line of
// output.
func (l *Line) checkID() bool {
	switch id := l.ID; {
	case id == "":
		l.wrong(CodeMissingField, "id: is missing")
	case len(id) > idLimit:
		l.ID = ""
		l.wrong(CodeInvalidID, "id: has %d bytes, more than %d", len(id), idLimit)
	case strings.ContainsFunc(id, invisible):
		l.ID = ""
		l.wrong(CodeInvalidID, "id: has a control or invisible character")
	default:
		return true
	}
	return false
}

// invisible reports characters that cannot be seen or that change the order of others.
func invisible(r rune) bool { return unicode.Is(unicode.Cf, r) || unicode.IsControl(r) }

// nativeLine is a line in the native form.
type nativeLine struct {
	ID    lineID         `json:"id"`
	Kind  tasks.Kind     `json:"kind"`
	Model string         `json:"model"`
	Input jsontext.Value `json:"input"`
}

// lineID is a string, or a number as exports of databases have it.
type lineID string

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (id *lineID) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	kind := d.PeekKind()
	if kind != '"' && kind != '0' && kind != 0 {
		_ = d.SkipValue()
		return errors.New("wants a string or a number")
	}
	token, err := d.ReadToken()
	if err != nil {
		return err
	}
	*id = lineID(token.String())
	return nil
}

// parseNative reads a line in the native form:
//
//	{"id": "row-17", "kind": "embedding", "model": "@cf/...", "input": {payload}}
//
// The model may be absent.
func parseNative(l *Line, text []byte) {
	var n nativeLine
	if err := json.Unmarshal(text, &n, json.RejectUnknownMembers(true)); err != nil {
		l.ID = string(n.ID)
		if l.ID != "" && !l.checkID() {
			return
		}
		l.notJSON(err)
		return
	}
	l.ID, l.Kind, l.Model, l.Input = string(n.ID), n.Kind, n.Model, n.Input
	if !l.checkID() {
		return
	}
	switch {
	case l.Kind == "":
		l.wrong(CodeMissingField, "kind: is missing")
	case len(l.Input) == 0 || l.Input.Kind() == 'n':
		l.wrong(CodeMissingField, "input: is missing")
	}
}

// notJSON turns an error of the JSON library into the problem of the line.
func (l *Line) notJSON(err error) {
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		code := CodeInvalidJSON
		if strings.Contains(syntactic.Error(), "invalid UTF-8") || strings.Contains(syntactic.Error(), "surrogate") {
			code = CodeInvalidUTF8
		}
		l.wrong(code, "is not valid JSON: %v at byte %d", syntactic.Err, syntactic.ByteOffset)
		return
	}
	semantic, ok := errors.AsType[*json.SemanticError](err)
	if !ok {
		l.wrong(CodeInvalidJSON, "is not valid JSON")
		return
	}
	field := strings.TrimPrefix(string(semantic.JSONPointer), "/")
	switch {
	case errors.Is(err, json.ErrUnknownName):
		l.wrong(CodeUnknownField, "%q: no such field; there are id, kind, model, input", short(field))
	case field == "":
		l.wrong(CodeFieldType, "wants an object")
	case field == "id":
		l.wrong(CodeFieldType, "id: wants a string or a number")
	default:
		l.wrong(CodeFieldType, "%s: wants a string", field)
	}
}

// short cuts text of the user that a message repeats.
func short(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// parsePayload decodes the input of a line. Embeddings, the kind of the largest files,
// are decoded directly; when that fails, the general parser finds the words for it.
func (l *Line) parsePayload() error {
	if l.Kind == tasks.KindEmbedding {
		var e tasks.Embedding
		if json.Unmarshal(l.Input, &e, json.RejectUnknownMembers(true)) == nil {
			l.Payload = e
			return nil
		}
	}
	p, err := tasks.Parse(l.Kind, l.Input)
	l.Payload = p
	if p != nil {
		return nil // CheckPayload reports what Validate finds, too
	}
	return err
}

// check decodes and checks the payload and the model of a line that has them.
func (l *Line) check(c *tasks.Client) {
	if l.Problem != nil {
		return
	}
	err := l.parsePayload()
	if err == nil {
		if l.Model == "" {
			spec, _ := tasks.SpecOf(l.Kind)
			l.Model = spec.Model()
		}
		err = c.CheckPayload(l.Payload, l.Model)
	}
	if err == nil {
		return
	}
	code := tasks.CodeOf(err)
	if code == "" {
		code = tasks.CodePayloadInvalid
	}
	l.wrong(code, "%s", err)
}
