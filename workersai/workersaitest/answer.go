package workersaitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
)

// answer returns a model's answer or refusal.
func (s *Server) answer(row catalogue.Model, known bool, r *http.Request, body []byte) answer {
	switch {
	case !known || row.Kind == "":
		return failed(5007)
	case row.Withdrawn(time.Now()):
		return failed(5028, "on "+row.WithdrawnOn)
	case len(body) == 0:
		return failed(3003)
	}
	switch row.Kind {
	case "transcription":
		return transcribe(row, r.Header.Get("Content-Type"), body)
	case "image":
		return draw(row, r.Header.Get("Content-Type"), body)
	case "translation":
		return translate(row, body)
	case "embedding":
		return embed(row, body)
	}
	return generate(row, body)
}

// fieldsIn decodes a JSON body. If that fails, why has the API's error text.
func fieldsIn(body []byte, into any) (why string) {
	if err := json.Unmarshal(body, into); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fmt.Sprintf("Error: Type mismatch of '/%s', '%s' not in '%s'", wrong.Field, wrong.Type, wrong.Value)
		}
		return "Error: the body is not JSON"
	}
	return ""
}

// unknownField returns a field that is not among those allowed.
func unknownField(body []byte, allowed ...string) string {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(body, &fields)
	for name := range fields {
		if !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+name+" ") {
			return "Error: unknown property '" + name + "'"
		}
	}
	return ""
}

// texts is one text or a list of texts.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = texts{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}

func tokens(s string) int { return (len(s) + 3) / 4 }
