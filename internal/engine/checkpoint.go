package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// A checkpoint stores a paid answer before the result, so that a crash costs no second
// call. Answers that take several writes to store have one, and so has each answer of a
// task that needs several. Where the result is the first write, no checkpoint is needed.

// answer is a checkpoint: answer.json, or answer-3.json for the fourth part of a task.
type answer struct {
	Model   string           `json:"model"`
	Digest  string           `json:"digest"` // digest of the task
	Neurons float64          `json:"neurons"`
	Call    int              `json:"call,omitempty"` // number of the answered call within the task
	Output  json.RawMessage  `json:"output"`
	Files   []tasks.Artefact `json:"files,omitempty"`
	Texts   []string         `json:"texts,omitempty"` // bodies of the text files
}

func (j *job) answerKey(part int) string {
	if part < 0 {
		return j.key("answer.json")
	}
	return j.key(fmt.Sprintf("answer-%d.json", part))
}

// storeAnswer stores a checkpoint. It may replace that of a run which was taken for dead:
// either serves.
func (e *Engine) storeAnswer(ctx context.Context, j *job, part int, a answer) error {
	a.Model, a.Digest = j.task.Model, j.task.Digest
	a.Call, a.Neurons = j.counts.costs.latest()
	document, err := json.Marshal(a)
	if err != nil {
		return &UnusableError{fmt.Errorf("encode the answer: %w", err)}
	}
	err = e.persist(ctx, func(ctx context.Context) error {
		return e.cfg.Store.Put(ctx, j.answerKey(part), bytes.NewReader(document), "application/json")
	})
	if err != nil {
		return fmt.Errorf("store the answer: %w", err)
	}
	j.counts.costs.stored(a.Call)
	j.answers = append(j.answers, j.answerKey(part))
	return nil
}

// storedAnswer returns the checkpoint of an earlier run and records its cost; nil when there
// is none, or it belongs to another model or task.
func (e *Engine) storedAnswer(ctx context.Context, j *job, part int) (*answer, error) {
	if j.fresh {
		return nil, nil
	}
	a, err := e.readAnswer(ctx, j, j.answerKey(part))
	if a == nil || err != nil {
		return nil, err
	}
	j.answers = append(j.answers, j.answerKey(part))
	j.counts.costs.found(a.Call, a.Neurons)
	return a, nil
}

// readAnswer reads a checkpoint; nil when there is none, or it belongs to another model or
// task.
func (e *Engine) readAnswer(ctx context.Context, j *job, key string) (*answer, error) {
	body, err := e.cfg.Store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a stored answer: %w", err)
	}
	defer body.Close()
	document, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read a stored answer: %w", err)
	}
	var a answer
	if json.Unmarshal(document, &a) != nil || a.Model != j.task.Model || a.Digest != j.task.Digest {
		e.cfg.Log.Warn("a stored answer does not belong to its task", "task", j.task.ID)
		return nil, nil
	}
	return &a, nil
}

// storePart stores the checkpoint of one of several parts of a task.
func (j *job) storePart(ctx context.Context, number int, output any) error {
	body, err := json.Marshal(output)
	if err != nil {
		return &UnusableError{fmt.Errorf("encode the answer: %w", err)}
	}
	ctx, cancel := j.engine.storingContext(ctx)
	defer cancel()
	return j.engine.storeAnswer(ctx, j, number, answer{Output: body})
}

// countStored adds the checkpoints that this run has not read, so that a failed task
// includes their cost. It lists the bucket only if the task has calls without a known
// price, or was recovered after Redis lost it.
func (e *Engine) countStored(ctx context.Context, j *job) error {
	if j.unsettled() == 0 && j.task.RecoveredAt.IsZero() {
		return nil
	}
	for info, err := range e.cfg.Store.List(ctx, j.key("answer"), "") {
		if err != nil {
			return fmt.Errorf("look for stored answers: %w", err)
		}
		if slices.Contains(j.answers, info.Key) {
			continue
		}
		a, err := e.readAnswer(ctx, j, info.Key)
		if err != nil {
			return err
		}
		if a != nil {
			j.answers = append(j.answers, info.Key)
			j.counts.costs.found(a.Call, a.Neurons)
		}
	}
	return nil
}

// resume returns the output of an earlier run if its checkpoint and all files are stored;
// else nil.
func (e *Engine) resume(ctx context.Context, j *job) (*Output, error) {
	if !e.handlers[j.task.Kind].Checkpoint {
		return nil, nil
	}
	a, err := e.storedAnswer(ctx, j, -1)
	if a == nil || err != nil {
		return nil, err
	}
	out := &Output{Result: a.Output}
	for i, f := range a.Files {
		var body []byte
		if i < len(a.Texts) {
			body = []byte(a.Texts[i])
		} else if body, err = e.readArtefact(ctx, f); err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != f.SHA256 {
			j.counts.costs.lose(a.Call, a.Neurons) // the checkpoint exists, but its file is missing or damaged
			return nil, nil
		}
		name := strings.TrimPrefix(f.Key, j.key(""))
		out.Files = append(out.Files, File{Name: name, ContentType: f.ContentType, Body: bytes.NewReader(body), stored: i >= len(a.Texts)})
	}
	e.cfg.Log.Info("a paid answer is taken up again", "task", j.task.ID, "kind", j.task.Kind)
	return out, nil
}

// readArtefact reads a file that an earlier run stored; nil when it does not exist.
func (e *Engine) readArtefact(ctx context.Context, f tasks.Artefact) ([]byte, error) {
	body, err := e.cfg.Store.Get(ctx, f.Key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Key, err)
	}
	defer body.Close()
	all, err := io.ReadAll(io.LimitReader(body, f.Bytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Key, err)
	}
	return all, nil
}

// storeFiles stores the artefacts and, in parallel, the checkpoint that names them.
func (e *Engine) storeFiles(ctx context.Context, j *job, out *Output, result json.RawMessage) ([]tasks.Artefact, error) {
	a := answer{Output: result}
	for i := range out.Files {
		described, text, err := out.Files[i].describe(j)
		if err != nil {
			return nil, err
		}
		a.Files = append(a.Files, described)
		if text != nil {
			a.Texts = append(a.Texts, *text)
		}
	}
	if len(a.Files) == 0 {
		return []tasks.Artefact{}, nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.storeAnswer(ctx, j, -1, a) })
	for i, f := range out.Files {
		if f.stored {
			continue
		}
		g.Go(func() error {
			err := e.persist(ctx, func(ctx context.Context) error {
				if _, err := f.Body.Seek(0, io.SeekStart); err != nil {
					return err
				}
				return e.cfg.Store.Put(ctx, a.Files[i].Key, f.Body, f.ContentType)
			})
			if err != nil {
				return fmt.Errorf("store %s: %w", f.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	failpoint.Hit("after-artefact")
	return a.Files, nil
}

// deleteLeftovers deletes the checkpoints and other objects that an ended task does not need.
func (e *Engine) deleteLeftovers(ctx context.Context, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	keys, err := e.leftovers(ctx, j)
	if err != nil {
		return err
	}
	keys = append(keys, j.answers...)
	if scratch := e.handlers[j.task.Kind].Scratch; scratch != nil {
		for _, name := range scratch(j.task) {
			keys = append(keys, j.key(name))
		}
	}
	for _, key := range keys {
		if err := e.cfg.Store.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}

// leftovers returns the keys of leftover objects of earlier runs, when this run ends the
// task without a call. These are checkpoints; for a failed task also artefacts; for a
// completed task also the dead letter of a failure that lost the race.
func (e *Engine) leftovers(ctx context.Context, j *job) ([]string, error) {
	first := j.counts.calls == 0 && j.task.RecoveredAt.IsZero()
	if !j.resultExists && (first || !j.startedAt.IsZero()) {
		return nil, nil
	}
	var keys, files []string
	failedTask := ""
	for info, err := range e.cfg.Store.List(ctx, j.key(""), "") {
		if err != nil {
			return nil, fmt.Errorf("look for what earlier runs stored: %w", err)
		}
		switch name := strings.TrimPrefix(info.Key, j.key("")); {
		case strings.HasPrefix(name, "answer"):
			keys = append(keys, info.Key)
		case info.Key == objects.FailedTaskKey(j.task.Tenant, j.task.ID):
			failedTask = info.Key // only a failure stores it
		case name != "result.json" && !strings.HasPrefix(name, "input"):
			files = append(files, info.Key)
		}
	}
	failed := j.failed
	if !failed && failedTask != "" {
		first, err := tasks.StoredResult(ctx, e.cfg.Store, j.task.Tenant, j.task.ID)
		if err != nil {
			return nil, err
		}
		if failed = first.Status == tasks.Failed; !failed {
			keys = append(keys, objects.DeadKey(j.task.Tenant, j.task.ID), failedTask)
		}
	}
	if failed {
		keys = append(keys, files...)
	}
	return keys, nil
}
