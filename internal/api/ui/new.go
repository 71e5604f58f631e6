package ui

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
)

type newData struct {
	Kind   tasks.Kind
	Model  string
	Input  string
	Lane   tasks.Lane
	From   string // the task that this is a copy of; empty if it is none
	Models []string
}

// samples are inputs to begin with.
var samples = map[tasks.Kind]string{
	tasks.KindText:          `{"prompt": "Name three rivers, and one fact about each."}`,
	tasks.KindTranslation:   `{"text": "Good morning! The order is on its way.", "target_lang": "de"}`,
	tasks.KindImage:         `{"prompt": "a red fox in the snow, morning light"}`,
	tasks.KindEmbedding:     `{"texts": ["a quiet river", "a busy harbour"]}`,
	tasks.KindTranscription: `{"audio": {"url": "https://example.com/speech.mp3"}}`,
}

func (u *UI) newTask(ctx context.Context, r *http.Request, c Caller) (any, error) {
	q := r.URL.Query()
	d := newData{Kind: tasks.Kind(cmp.Or(q.Get("kind"), string(tasks.KindText))), Lane: tasks.Interactive}
	if id := q.Get("from"); id != "" {
		if !taskID.MatchString(id) {
			return nil, tasks.ErrNotFound
		}
		info, err := u.cfg.Client(c.Tenant).Get(ctx, id)
		if err != nil {
			return nil, err
		}
		d.Kind, d.Model, d.Lane, d.From = info.Kind, info.Model, cmp.Or(info.Lane, tasks.Interactive), id
		if info.Result != nil {
			d.Kind, d.Model = info.Result.Kind, info.Result.Model
		}
		if payload := u.inputOf(ctx, c.Tenant, info); payload != nil {
			var whole bool
			if d.Input, whole = indented(payload); !whole {
				return nil, refusedError{http.StatusConflict, "The input is too large to edit here. Copy it with the API: POST /v1/tasks/" + id + "/copy."}
			}
		}
	}
	spec, ok := tasks.SpecOf(d.Kind)
	if !ok {
		return nil, refusedError{http.StatusBadRequest, "There is no such kind of task."}
	}
	if d.Input == "" {
		d.Input, _ = indented([]byte(samples[d.Kind]))
	}
	d.Model = cmp.Or(d.Model, spec.Model())
	for _, m := range catalogue.All() {
		if m.Kind == string(d.Kind) {
			d.Models = append(d.Models, m.ID)
		}
	}
	if !slices.Contains(d.Models, d.Model) {
		d.Models = append(d.Models, d.Model)
	}
	return d, nil
}

// submit accepts a task that a person wrote.
func (u *UI) submit(w http.ResponseWriter, r *http.Request, c Caller) {
	kind := tasks.Kind(r.PostFormValue("kind"))
	payload, err := tasks.Parse(kind, []byte(r.PostFormValue("input")))
	if payload == nil {
		u.fail(w, r, c, cmp.Or(err, error(refusedError{http.StatusBadRequest, "The input is missing."})))
		return
	}
	options := []tasks.Option{tasks.WithModel(r.PostFormValue("model")), tasks.WithLane(tasks.Lane(r.PostFormValue("lane")))}
	if from := r.PostFormValue("from"); taskID.MatchString(from) {
		options = append(options, tasks.WithMetadata(map[string]string{"copied_from": from}))
	}
	receipt, err := u.cfg.Client(c.Tenant).Enqueue(r.Context(), payload, options...)
	if errors.Is(err, tasks.ErrUnknownOutcome) {
		err = refusedError{http.StatusServiceUnavailable, "The reply of Redis was lost: the task may run. Look for it in the list before you send it again."}
	}
	u.acted(w, r, c, acted{err: err, did: "submit " + cut(20, string(kind)), about: receipt.ID, count: 1, to: "/tasks/" + receipt.ID, done: "created"})
}

// command is how to do the same task elsewhere.
type command struct{ Name, Text string }

// mostCommand is the bytes of an input that commands repeat.
const mostCommand = 4 << 10

// commandsOf writes a task as commands for a terminal and as Go.
func commandsOf(d taskData, payload []byte) []command {
	if len(payload) > mostCommand {
		return nil
	}
	input, model := visible(payload), clean(d.Model)
	body, err := json.Marshal(map[string]any{"kind": d.Kind, "model": d.Model, "input": json.RawMessage(payload)})
	if err != nil {
		return nil
	}
	return []command{
		{"Command line", fmt.Sprintf("neuronmill enqueue %s --model %s --payload %s", d.Kind, quoted(model), quoted(input))},
		{"curl", fmt.Sprintf("curl -H 'Content-Type: application/json' -H \"Authorization: Bearer $NEURONMILL_KEY\" \\\n  http://127.0.0.1:8080/v1/tasks -d %s", quoted(visible(body)))},
		{"Go", fmt.Sprintf("payload, err := tasks.Parse(%q, []byte(%q))\n…\nreceipt, err := client.Enqueue(ctx, payload, tasks.WithModel(%q))", d.Kind, input, model)},
	}
}

// visible escapes the characters of a JSON document that clean replaces, which are in its strings:
// the document means the same, and shows them.
func visible(document []byte) string {
	var b strings.Builder
	for _, r := range string(document) {
		if clean(string(r)) == string(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// quoted writes a text as one word of a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
