package workersaitest

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// schema is the subset of JSON schema that tools use.
type schema struct {
	Schema     *schema           `json:"schema"` // OpenAI's wrapper
	Type       any               `json:"type"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Items      *schema           `json:"items"`
	Enum       []any             `json:"enum"`
	Minimum    float64           `json:"minimum"`
}

// fitted generates JSON that matches a schema, with words of the prompt as texts.
func fitted(raw json.RawMessage, prompt string) string {
	var s schema
	_ = json.Unmarshal(raw, &s)
	if s.Schema != nil {
		s = *s.Schema
	}
	if len(s.Properties) == 0 && (s.Type == nil || s.Type == "object") && len(raw) == 0 {
		s = schema{Type: "object", Properties: map[string]schema{"answer": {Type: "string"}}}
	}
	words := strings.FieldsFunc(prompt, func(r rune) bool { return strings.ContainsRune(" \t\n.,;:!?\"", r) })
	slices.SortStableFunc(words, func(a, b string) int { return len(b) - len(a) })
	if s.Type == nil {
		s.Type = "object"
	}
	encoded, err := json.Marshal(s.value(&words, 0))
	if err != nil {
		return "{}"
	}
	return string(encoded)
}

func (s schema) value(words *[]string, depth int) any {
	if len(s.Enum) > 0 {
		return s.Enum[0]
	}
	kind, _ := s.Type.(string)
	if list, ok := s.Type.([]any); ok && len(list) > 0 {
		kind, _ = list[0].(string)
	}
	switch kind {
	case "object":
		out := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			if depth < 8 {
				out[name] = s.Properties[name].value(words, depth+1)
			}
		}
		return out
	case "array":
		if s.Items == nil || depth >= 8 {
			return []any{}
		}
		return []any{s.Items.value(words, depth+1)}
	case "integer", "number":
		return max(1, s.Minimum)
	case "boolean":
		return true
	case "null":
		return nil
	}
	if len(*words) == 0 {
		return "text"
	}
	word := (*words)[0]
	*words = append((*words)[1:], word)
	return word
}
