package handlers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/failpoint"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"golang.org/x/sync/errgroup"
)

// A paid answer that takes more than one write to store, or is one of several that a
// task needs, is written down as it comes: a worker that dies meanwhile costs no second
// call. Where the result itself is the first write, it serves as that.

// answer is the document answer.json, or answer-3.json for the fourth part of a task.
type answer struct {
	Model   string           `json:"model"`
	Digest  string           `json:"digest"` // of the task
	Neurons float64          `json:"neurons"`
	Output  json.RawMessage  `json:"output"`
	Files   []tasks.Artefact `json:"files,omitempty"`
	Texts   []string         `json:"texts,omitempty"` // the files' bodies, where they are text
}

func (j *job) answerKey(part int) string {
	if part < 0 {
		return j.key("answer.json")
	}
	return j.key(fmt.Sprintf("answer-%d.json", part))
}

// storeAnswer writes an answer down. One that is there already is from a run that was
// taken for dead, and serves as well.
func (h *Handlers) storeAnswer(ctx context.Context, j *job, part int, a answer) error {
	if !h.cfg.on(guardAnswer) {
		return nil
	}
	a.Model, a.Digest = j.task.Model, j.task.Digest
	document, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	err = h.persist(ctx, func() error {
		return h.cfg.Store.Put(ctx, j.answerKey(part), bytes.NewReader(document), "application/json")
	})
	if err != nil {
		return fmt.Errorf("store the answer: %w", err)
	}
	j.answers = append(j.answers, j.answerKey(part))
	return nil
}

// storedAnswer finds an answer that was paid for in an earlier run; nil when there is
// none, or it is of another model or task.
func (h *Handlers) storedAnswer(ctx context.Context, j *job, part int) (*answer, error) {
	if !h.cfg.on(guardAnswer) || j.fresh {
		return nil, nil
	}
	body, err := h.cfg.Store.Get(ctx, j.answerKey(part))
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
		h.cfg.Log.Warn("a stored answer does not belong to its task", "task", j.task.ID)
		return nil, nil
	}
	j.answers = append(j.answers, j.answerKey(part))
	j.answered, j.neurons = j.answered+1, j.neurons+a.Neurons
	return &a, nil
}

// resume gives the output of an earlier run whose answer and files are all there; nil
// when there is none.
func (h *Handlers) resume(ctx context.Context, j *job) (*output, error) {
	if j.task.Kind != tasks.KindImage && j.task.Kind != tasks.KindTranscription {
		return nil, nil
	}
	a, err := h.storedAnswer(ctx, j, -1)
	if a == nil || err != nil {
		return nil, err
	}
	out := &output{result: a.Output}
	for i, f := range a.Files {
		var body []byte
		if i < len(a.Texts) {
			body = []byte(a.Texts[i])
		} else if body, err = h.readArtefact(ctx, f); err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != f.SHA256 {
			j.answered, j.neurons = 0, 0 // the answer is stored, its picture is not
			return nil, nil
		}
		name := strings.TrimPrefix(f.Key, j.key(""))
		out.files = append(out.files, file{name: name, contentType: f.ContentType, body: bytes.NewReader(body), stored: i >= len(a.Texts)})
	}
	h.cfg.Log.Info("a paid answer is taken up again", "task", j.task.ID, "kind", j.task.Kind)
	return out, nil
}

// readArtefact reads a file that an earlier run stored; nothing when it is not there.
func (h *Handlers) readArtefact(ctx context.Context, f tasks.Artefact) ([]byte, error) {
	body, err := h.cfg.Store.Get(ctx, f.Key)
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

// storeFiles puts the artefacts and, beside them, the answer they belong to.
func (h *Handlers) storeFiles(ctx context.Context, j *job, out *output, result json.RawMessage) ([]tasks.Artefact, error) {
	a := answer{Neurons: j.neurons, Output: result}
	for i := range out.files {
		described, text, err := out.files[i].describe(j)
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
	g.Go(func() error { return h.storeAnswer(ctx, j, -1, a) })
	for i, f := range out.files {
		if f.stored {
			continue
		}
		g.Go(func() error {
			err := h.persist(ctx, func() error {
				if _, err := f.body.Seek(0, io.SeekStart); err != nil {
					return err
				}
				return h.cfg.Store.Put(ctx, a.Files[i].Key, f.body, f.contentType)
			})
			if err != nil {
				return fmt.Errorf("store %s: %w", f.name, err)
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

// forgetAnswers removes what only an unfinished task needs.
func (h *Handlers) forgetAnswers(ctx context.Context, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	keys, err := h.leftBehind(ctx, j)
	if err != nil {
		return err
	}
	for _, key := range append(keys, j.answers...) {
		if err := h.cfg.Store.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}

// leftBehind finds what earlier runs have stored, where this one ends the task without
// a call of its own: answers and, if the task failed, artefacts; if it completed, what a
// failure left that came second.
func (h *Handlers) leftBehind(ctx context.Context, j *job) ([]string, error) {
	first := j.counts.calls == 0 && j.task.RecoveredAt.IsZero()
	if !j.over && (first || !j.startedAt.IsZero()) {
		return nil, nil
	}
	var keys, files []string
	failedTask := ""
	for info, err := range h.cfg.Store.List(ctx, j.key(""), "") {
		if err != nil {
			return nil, fmt.Errorf("look for what earlier runs stored: %w", err)
		}
		switch name := strings.TrimPrefix(info.Key, j.key("")); {
		case strings.HasPrefix(name, "answer"):
			keys = append(keys, info.Key)
		case info.Key == tasks.FailedTaskKey(j.task.Tenant, j.task.ID):
			failedTask = info.Key // only a failure leaves it
		case name != "result.json" && !strings.HasPrefix(name, "input"):
			files = append(files, info.Key)
		}
	}
	failed := j.failed
	if !failed && failedTask != "" {
		first, err := tasks.StoredResult(ctx, h.cfg.Store, j.task.Tenant, j.task.ID)
		if err != nil {
			return nil, err
		}
		if failed = first.Status == tasks.Failed; !failed {
			keys = append(keys, tasks.DeadKey(j.task.Tenant, j.task.ID), failedTask)
		}
	}
	if failed {
		keys = append(keys, files...)
	}
	return keys, nil
}
