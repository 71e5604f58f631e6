package schedule

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

// placeholder matches {{date}} and its like, with an optional shift in days.
var placeholder = regexp.MustCompile(`\{\{\s*([a-z]+)\s*(?:([+-]\d{1,4})d)?\s*\}\}`)

// fill replaces the placeholders in all texts of a value of JSON. An unknown one is a
// tasks.ValidationError.
func (e Entry) fill(v any, slot time.Time) (any, error) {
	switch v := v.(type) {
	case string:
		return e.fillText(v, slot)
	case []any:
		filled := make([]any, len(v))
		for i, item := range v {
			one, err := e.fill(item, slot)
			if err != nil {
				return nil, err
			}
			filled[i] = one
		}
		return filled, nil
	case map[string]any:
		filled := make(map[string]any, len(v))
		for name, item := range v {
			one, err := e.fill(item, slot)
			if err != nil {
				return nil, err
			}
			filled[name] = one
		}
		return filled, nil
	}
	return v, nil
}

// fillText replaces the placeholders of one text. Dates are those of the slot in the
// schedule's time zone.
func (e Entry) fillText(text string, slot time.Time) (string, error) {
	var wrong error
	filled := placeholder.ReplaceAllStringFunc(text, func(found string) string {
		parts := placeholder.FindStringSubmatch(found)
		days, _ := strconv.Atoi(parts[2]) // 0 when there is none
		at := slot.In(e.zone).AddDate(0, 0, days)
		switch name := parts[1]; {
		case name == "date":
			return at.Format(time.DateOnly)
		case name == "datetime":
			return at.Format(time.RFC3339)
		case name == "slot" && parts[2] == "":
			return slot.UTC().Format(time.RFC3339)
		case name == "name" && parts[2] == "":
			return e.Name
		}
		wrong = tasks.ValidationError{{Message: fmt.Sprintf("has %s, which is none of {{date}}, {{date -1d}}, {{datetime}}, {{slot}}, {{name}}", shortened(found))}}
		return found
	})
	return filled, wrong
}

// shortened is a placeholder as an error shows it.
func shortened(text string) string {
	const most = 40
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
