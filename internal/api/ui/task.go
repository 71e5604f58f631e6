package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

// shown is the most bytes of one input or output on a page.
const shown = 16 << 10

type taskData struct {
	ID       string
	Kind     tasks.Kind
	Lane     tasks.Lane
	Model    string
	State    string
	Ended    bool
	Attempts int
	Wait     string // why it waits; empty when it does not
	Do       string // the remedy; empty when waiting is enough
	Until    time.Time
	Error    *tasks.TaskError
	Usage    tasks.Usage
	Steps    []step
	Result   resultView
	Input    string // JSON, shortened; empty when it is not kept
	Whole    bool   // Input is not shortened
	Metadata []pair
	Files    []file
	Commands []command
	OldID    string // the task that this one repeats
	Raw      string // the result document, shortened
}

// PageTitle is the title of the page.
func (d taskData) PageTitle() string { return d.Name() + " " + d.ID }

// Name is the kind with a capital.
func (d taskData) Name() string {
	return strings.ToUpper(string(d.Kind[:min(1, len(d.Kind))])) + string(d.Kind[min(1, len(d.Kind)):])
}

// Took is the time from acceptance to the end, in words.
func (d taskData) Took() string {
	if !d.Ended || len(d.Steps) < 2 {
		return ""
	}
	return took(d.Steps[len(d.Steps)-1].At.Sub(d.Steps[0].At))
}

type pair struct{ Key, Value string }

type file struct {
	Name, Type string
	Bytes      int64
}

// step is something that happened to a task.
type step struct {
	Tone, Head, Text string
	At               time.Time
}

func (u *UI) task(ctx context.Context, r *http.Request, c Caller) (any, error) {
	id, err := idOf(r)
	if err != nil {
		return nil, err
	}
	return u.taskPages.get(c.Tenant, id, taskFor, func() (taskData, error) { return u.readTask(ctx, c, id) })
}

// The cached pages of tasks, which all watchers share: how long one lasts, and how many there are.
const (
	taskFor       = 2 * time.Second
	mostTaskPages = 200
)

func (u *UI) readTask(ctx context.Context, c Caller, id string) (d taskData, err error) {
	info, err := u.cfg.Client(c.Tenant).Get(ctx, id)
	if err != nil {
		return d, err
	}
	payload := u.inputOf(ctx, c.Tenant, info)
	d = taskData{ID: id, Kind: info.Kind, Lane: info.Lane, Model: info.Model, State: info.State, Attempts: info.Attempts}
	if info.Result != nil {
		d.ended(info.Result, payload)
	} else if err := u.alive(ctx, &d, info); err != nil {
		return d, err
	}
	if len(payload) > 0 {
		d.Input, d.Whole = indented(payload)
		d.Commands = commandsOf(d, payload)
	}
	return d, nil
}

// inputOf returns the payload of a task as JSON, or nil for a completed task, whose
// input is not kept.
func (u *UI) inputOf(ctx context.Context, tenant string, info tasks.Info) []byte {
	task := info.Task
	if info.Result != nil {
		if info.Result.Status != tasks.Failed {
			return nil
		}
		var err error
		if task, err = tasks.FailedTask(ctx, u.cfg.Store, tenant, info.Result.ID); err != nil {
			return nil
		}
	}
	if len(task.Payload) > 0 {
		return task.Payload
	}
	p, err := task.Input(ctx, u.cfg.Store)
	if err != nil {
		return nil
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil
	}
	return text
}

// indented returns JSON for people, shortened to the bound of a page.
func indented(text []byte) (string, bool) {
	var b bytes.Buffer
	if json.Indent(&b, text, "", "  ") != nil {
		b.Reset()
		b.Write(text)
	}
	if b.Len() > shown {
		return clean(strings.ToValidUTF8(string(b.Bytes()[:shown]), "")) + "\n…", false
	}
	return clean(b.String()), true
}

// alive fills in what there is to say of a task that has not ended.
func (u *UI) alive(ctx context.Context, d *taskData, info tasks.Info) error {
	if info.Cancelled {
		d.State = "cancelling"
	}
	w, err := u.cfg.Monitor.WaitingOn(ctx, u.cfg.Gate, info)
	if err != nil {
		return err
	}
	d.Steps = append(d.Steps, step{Tone: "ok", Head: "Accepted", Text: kept(info.Pending), At: info.CreatedAt})
	if info.Attempts > 0 {
		d.Steps = append(d.Steps, step{Tone: "wait", Head: fmt.Sprintf("%d counted calls", info.Attempts), Text: cut(300, info.LastError)})
	}
	if w.Called {
		d.Steps = append(d.Steps, step{Tone: "run", Head: "A call is under way"})
	} else {
		d.Wait, d.Do, d.Until = cut(400, w.String()), cut(200, w.Do), w.Until
		d.Steps = append(d.Steps, step{Tone: "run", Head: "Waits", Text: d.Wait})
	}
	d.setMetadata(info.Metadata)
	return nil
}

func kept(inStore bool) string {
	if inStore {
		return "a record in the bucket outlives Redis"
	}
	return "in Redis"
}

// ended fills in the facts of a result.
func (d *taskData) ended(r *tasks.Result, payload []byte) {
	d.Ended, d.State, d.Kind, d.Model, d.Attempts, d.Usage, d.Error = true, string(r.Status), r.Kind, r.Model, r.Attempts, r.Usage, r.Error
	d.Steps = append(d.Steps, step{Tone: "ok", Head: "Accepted", At: r.CreatedAt})
	from := r.CreatedAt
	if r.StartedAt != nil {
		from = *r.StartedAt
		d.Steps = append(d.Steps, step{Tone: "soft", Head: "Waited " + took(from.Sub(r.CreatedAt)), Text: "for a worker and the gate of its model", At: from})
	}
	if r.Usage.Calls > 0 {
		text := neurons(r.Usage.Neurons) + " neurons, list price " + dollars(r.Usage.Neurons)
		if r.Usage.Unsettled > 0 {
			text += fmt.Sprintf("; the price of %d calls is not known", r.Usage.Unsettled)
		}
		tone := "ok"
		if r.Status == tasks.Failed {
			tone = "bad"
		}
		head := "1 call"
		if r.Usage.Calls > 1 {
			head = fmt.Sprintf("%d calls", r.Usage.Calls)
		}
		d.Steps = append(d.Steps, step{Tone: tone, Head: head + " in " + took(r.FinishedAt.Sub(from)), Text: text})
	}
	if r.Status == tasks.Completed {
		size := int64(len(r.Output))
		for _, a := range r.Artefacts {
			size += a.Bytes
		}
		d.Steps = append(d.Steps, step{Tone: "ok", Head: "Stored", Text: byteCount(size) + " in the bucket", At: r.FinishedAt})
	} else if r.Error != nil {
		d.Steps = append(d.Steps, step{Tone: "bad", Head: "Failed: " + cut(60, r.Error.Code), Text: cut(600, r.Error.Message), At: r.FinishedAt})
	}
	d.setMetadata(r.Metadata)
	for _, a := range r.Artefacts {
		d.Files = append(d.Files, file{path.Base(a.Key), a.ContentType, a.Bytes})
	}
	d.Result = viewOf(r, payload)
	if text, err := json.Marshal(r); err == nil {
		d.Raw, _ = indented(text[:min(len(text), shown)])
	}
}

// mostMetadata is the characters of a value that a page shows.
const mostMetadata = 400

func (d *taskData) setMetadata(m map[string]string) {
	for k, v := range m {
		if (k == "retry_of" || k == "copied_from") && taskID.MatchString(v) {
			d.OldID = v
			continue
		}
		d.Metadata = append(d.Metadata, pair{cut(80, k), cut(mostMetadata, v)})
	}
	slices.SortFunc(d.Metadata, func(a, b pair) int { return strings.Compare(a.Key, b.Key) })
}
