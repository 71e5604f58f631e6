package workersai

import (
	"encoding/json"
	"strings"
)

// statement is an error that a body or a frame states.
type statement struct {
	code    int
	status  int // an HTTP status that the body names
	message string
	isJSON  bool
	found   bool // the body states an error
}

// errorForm has all forms in which the API, its gateway and its engines state errors: the
// v4 envelope, the Workers binding's AiError, OpenAI's form, and the engine's own.
type errorForm struct {
	Success      json.RawMessage `json:"success"`
	Errors       json.RawMessage `json:"errors"`
	Error        json.RawMessage `json:"error"`
	Name         json.RawMessage `json:"name"`
	Object       json.RawMessage `json:"object"`
	InternalCode json.RawMessage `json:"internalCode"`
	HTTPCode     json.RawMessage `json:"httpCode"`
	Code         json.RawMessage `json:"code"`
	Message      json.RawMessage `json:"message"`
	Detail       json.RawMessage `json:"detail"`
}

// statementIn finds an error in a body of any form.
func statementIn(body []byte) statement {
	var f errorForm
	if err := decode(body, &f); err != nil {
		var any json.RawMessage
		return statement{isJSON: decode(body, &any) == nil}
	}
	return f.statement()
}

func (f errorForm) statement() statement {
	s := statement{isJSON: true}
	own := stringIn(f.Name) == "AiError" || says(f.InternalCode) || stringIn(f.Object) == "error"
	s.found = own || string(f.Success) == "false" || says(f.Error)
	s.code, s.message = countIn(f.InternalCode), stringIn(f.Message)
	if s.message == "" {
		s.message = stringIn(f.Detail)
	}
	if s.code == 0 {
		s.code = countIn(f.Code)
	}
	if says(f.Error) {
		s.take(f.Error)
	}
	for _, entry := range list(f.Errors) {
		if says(entry) {
			s.found = true
			s.take(entry)
			break
		}
	}
	s.status = countIn(f.HTTPCode)
	if s.code >= 400 && s.code < 600 { // the API's own codes are larger, except 971
		s.status, s.code = s.code, 0
	}
	if s.status < 400 || s.status >= 600 {
		s.status = 0
	}
	return s
}

// take reads one stated error: {code, message}, or only a message.
func (s *statement) take(raw json.RawMessage) {
	if text := stringIn(raw); text != "" {
		s.code, s.message = 0, text
		return
	}
	var entry struct {
		Code         json.RawMessage `json:"code"`
		InternalCode json.RawMessage `json:"internalCode"`
		Message      json.RawMessage `json:"message"`
	}
	if json.Unmarshal(raw, &entry) != nil {
		return
	}
	s.code, s.message = countIn(entry.InternalCode), stringIn(entry.Message)
	if s.code == 0 {
		s.code = countIn(entry.Code)
	}
}

// says reports whether a field of an error has content.
func says(raw json.RawMessage) bool {
	switch strings.TrimSpace(string(raw)) {
	case "", "null", "false", "0", `""`, "{}", "[]":
		return false
	}
	return true
}

// countIn returns a whole number from 0, given as a number or as text, since codes occur
// in both forms. Any other value is 0.
func countIn(raw json.RawMessage) int {
	n, ok := numberIn(raw)
	if !ok || n != float64(int(n)) || n < 0 || n > 1e9 {
		return 0
	}
	return int(n)
}
