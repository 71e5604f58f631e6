package tasks_test

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// The highest price is never below the likely one.
func TestATaskThatMayCostMoreThanItsBoundIsRefused(t *testing.T) {
	client := tasks.NewClient(tasks.Config{Redis: redistest.Memory(t), AllowUnknownModel: true})
	ten := 10
	short, long := tasks.Embedding{Texts: []string{"a mill"}}, tasks.Embedding{Texts: make([]string, 500)}
	for i := range long.Texts {
		long.Texts[i] = strings.Repeat("word ", 40)
	}
	for name, c := range map[string]struct {
		payload tasks.Payload
		model   string
		most    float64
		code    string
		refused string // part of the problem; empty if the task is accepted
	}{
		"a cheap text":                {short, "", 0.06, "", ""},
		"a bound below its price":     {short, "", 0.05, tasks.CodeBudgetExceeded, "is 0.05, and the task may cost 0.0546"},
		"many calls, likely within":   {long, "", 160, "", ""},
		"many calls, not even likely": {long, "", 150, tasks.CodeBudgetExceeded, "is 150, and the task may cost 157"},
		"a picture":                   {tasks.Image{Prompt: "a mill"}, "", 172.8, "", ""},
		"a dear picture":              {tasks.Image{Prompt: "a mill"}, "", 172.7, tasks.CodeBudgetExceeded, "may cost 172.8"},
		"an answer with a bound":      {tasks.Text{Prompt: "hi", MaxTokens: &ten}, "", 2, "", ""},
		"an answer without one":       {tasks.Text{Prompt: "hi"}, "", 2, tasks.CodeBudgetExceeded, "max_tokens makes it less"},
		"a translation":               {tasks.Translation{Text: "hi", TargetLang: "es"}, "", 0.32, "", ""},
		"a recording":                 {tasks.Transcription{Audio: tasks.Audio{URL: "https://shop.example/a.wav"}}, "", 1, "", ""},
		"an unknown model":            {short, "@cf/x/new", 1e6, tasks.CodePayloadInvalid, "the price of @cf/x/new is not known"},
		"a free model":                {short, "@cf/google/embeddinggemma-300m", 0.0001, "", ""},
	} {
		err := client.Check(c.payload, tasks.WithModel(c.model), tasks.WithMaxNeurons(c.most))
		if c.refused == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, "max_neurons: ", name)
		require.ErrorContains(t, err, c.refused, name)
		require.Equal(t, c.code, tasks.CodeOf(err), name)
	}
}
