package tasks

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/storage"
)

// prepare checks everything about a task at once and gives it its id.
func (c *Client) prepare(payload Payload, o Options, now time.Time) (Task, error) {
	if payload == nil {
		return Task{}, Problems{{"payload", "is missing"}}
	}
	spec, ok := SpecOf(payload.Kind())
	if !ok {
		return Task{}, unknownKind(payload.Kind())
	}
	var problems Problems
	if err := payload.Validate(); err != nil {
		var found Problems
		if !errors.As(err, &found) {
			return Task{}, err
		}
		problems = append(problems, found...)
	}
	if t, ok := payload.(Transcription); ok && t.Audio.Path != "" {
		problems.add("audio.path", "only the command line uploads files; put it into the bucket and give its key")
	}
	if t, ok := payload.(Transcription); ok && t.Audio.Key != "" && !strings.HasPrefix(t.Audio.Key, c.cfg.Tenant+"/") {
		problems.add("audio.key", "must begin with %s/", c.cfg.Tenant)
	}
	if o.Model == "" {
		o.Model = spec.Model()
	}
	model, found := c.checkModel(o.Model, spec.Kind)
	problems = append(problems, found...)
	if model.ID != "" && len(found) == 0 {
		problems = append(problems, spec.check(payload, model)...)
		if f, ok := payload.(interface{ folded(catalogue.Model) Payload }); ok {
			payload = f.folded(model)
		}
	}
	problems = append(problems, o.check(now)...)
	oneOf(&problems, "accept", string(o.Accept), string(InStore), string(InRedis))
	if o.Accept == InStore && c.cfg.Store == nil {
		problems.add("accept", "store wants a client with a Store")
	}
	if err := problems.err(); err != nil {
		return Task{}, err
	}
	return c.build(payload, spec, o, now)
}

func (c *Client) build(payload Payload, spec Spec, o Options, now time.Time) (Task, error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return Task{}, fmt.Errorf("encode the payload: %w", err)
	}
	t := Task{
		Version: 1, ID: newID(c.cfg.Tenant, o.IdempotencyKey), Tenant: c.cfg.Tenant,
		Kind: spec.Kind, Lane: o.Lane, Model: o.Model, Payload: body,
		Digest: digest(string(spec.Kind), o.Model, string(body)), CreatedAt: now.UTC(),
		StartAt: o.StartAt.UTC(), Deadline: o.Deadline.UTC(), Metadata: o.Metadata,
	}
	t.Pending = c.cfg.Store != nil && cmp.Or(o.Accept, c.cfg.Accept) != InRedis
	if t.Lane == "" {
		t.Lane = Interactive
	}
	if o.StartAt.IsZero() || !o.StartAt.After(now) {
		t.StartAt = time.Time{}
	}
	if o.Deadline.IsZero() {
		t.Deadline = later(now, t.StartAt).Add(spec.MaxAge).UTC()
	}
	return t, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

var modelID = regexp.MustCompile(`^@(cf|hf)/[a-z0-9-]+/[A-Za-z0-9._-]+$`)

// checkModel finds a model that can do the kind; the zero Model when it is unknown
// and unknown ones are let through.
func (c *Client) checkModel(id string, k Kind) (catalogue.Model, Problems) {
	var p Problems
	m, known := catalogue.Find(id)
	switch {
	case !modelID.MatchString(id) || len(id) > 200:
		p.add("model", "%s is no model id; they look like %s", quote(id), catalogue.Default(string(k)).ID)
	case !known && !c.cfg.AllowUnknownModel:
		p.add("model", "%s is unknown%s; --allow-unknown-model lets it through", id, nearModel(id, k))
	case !known:
	case m.Withdrawn(time.Now()):
		p.add("model", "%s was withdrawn on %s%s", id, m.WithdrawnOn, successor(m))
	case m.Kind == "":
		p.add("model", "%s is for none of the kinds", id)
	case m.Kind != string(k):
		p.add("model", "%s is for %s tasks, not for %s", id, m.Kind, k)
	}
	return m, p
}

func successor(m catalogue.Model) string {
	if m.Successor == "" {
		return ""
	}
	return "; use " + m.Successor
}

func nearModel(id string, k Kind) string {
	best, least := "", 8
	for _, m := range catalogue.All() {
		if m.Kind != string(k) || m.WithdrawnOn != "" {
			continue
		}
		if d := distance(id, m.ID, least); d < least {
			best, least = m.ID, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// newID is the id of a task: random, or derived from an idempotency key, so that a
// repeated call meets its own task. Never a producer's own words.
func newID(tenant, idempotencyKey string) string {
	if idempotencyKey == "" {
		return "t_" + strings.ReplaceAll(uuid.Must(uuid.NewV7()).String(), "-", "")
	}
	sum := sha256.Sum256([]byte(tenant + "\x00" + idempotencyKey))
	return "t_" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:26])
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// Check reports what Enqueue would refuse about a task, without enqueuing it.
func Check(p Payload, opts ...Option) error {
	var o Options
	for _, set := range opts {
		set(&o)
	}
	_, err := NewClient(Config{Store: storage.NewMemory()}).prepare(p, o, time.Now())
	return err
}
