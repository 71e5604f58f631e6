package main

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/tasks/taskstest"
)

func TestACustomerIsGreetedOnce(t *testing.T) {
	q := taskstest.New(t)
	for range 2 {
		if _, err := greet(t.Context(), q.Client, "Ada", "es"); err != nil {
			t.Fatal(err)
		}
	}
	task := taskstest.RequireEnqueued(t, q, tasks.Translation{TargetLang: "es"})

	q.Work(t)

	result, err := q.Client.Result(t.Context(), task.ID)
	if err != nil {
		t.Fatal(err)
	}
	output, err := tasks.OutputOf[tasks.TranslationOutput](result)
	if err != nil || !strings.Contains(output.TranslatedText, "Ada") {
		t.Fatalf("the greeting is %q: %v", output.TranslatedText, err)
	}
	if calls := len(q.Emulator.Requests()); calls != 1 {
		t.Fatalf("%d calls were paid for", calls)
	}
}
