package metrics

import (
	"strconv"
	"sync"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai"
)

// other is the value of a label that is in none of the bounded sets.
const other = "other"

// known returns the value itself if it is in a set.
func known(set map[string]bool, value string) string {
	if set[value] {
		return value
	}
	return other
}

func set(values ...string) map[string]bool {
	s := map[string]bool{}
	for _, v := range values {
		s[v] = true
	}
	return s
}

func kindLabel(k tasks.Kind) string {
	if _, ok := tasks.SpecOf(k); ok {
		return string(k)
	}
	return other
}

func laneLabel(l tasks.Lane) string {
	if l == tasks.Bulk {
		return string(tasks.Bulk)
	}
	return string(tasks.Interactive)
}

// modelLabel bounds models by the catalogue.
func modelLabel(id string) string {
	if _, ok := catalogue.Find(id); ok {
		return id
	}
	return other
}

var outcomes = set(string(tasks.Completed), string(tasks.Failed))

func outcomeLabel(outcome string) string { return known(outcomes, outcome) }

var errorCodes = sync.OnceValue(func() map[string]bool {
	codes := set("")
	for _, c := range tasks.Codes {
		codes[c.Code] = true
	}
	return codes
})

// errorCode bounds the codes of failed tasks; it is empty for a completed one.
func errorCode(code string) string { return known(errorCodes(), code) }

// callCode is the code of a call's outcome: "ok", "lost", the HTTP status, or a code of the
// API that package workersai knows.
func callCode(e tasks.Event) string {
	switch {
	case e.Outcome == "ok" || e.Outcome == "lost" && e.Code == "":
		return e.Outcome
	case len(e.Code) == 3: // an HTTP status
		if status, err := strconv.Atoi(e.Code); err == nil && status >= 400 && status < 600 {
			return e.Code
		}
	}
	if code, err := strconv.Atoi(e.Code); err == nil && workersai.KnownCode(code) {
		return strconv.Itoa(code)
	}
	return other
}
