package tasks

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/spelling"
	"github.com/neuronmill/neuronmill/storage"
)

// prepare checks the whole task, reports all problems together and assigns the id.
func (c *Client) prepare(given Payload, o Options, now time.Time) (Task, error) {
	if c.invalid != nil {
		return Task{}, c.invalid
	}
	payload, ok := plain(given)
	if !ok {
		return Task{}, problem("payload", "is missing")
	}
	spec, ok := SpecOf(payload.Kind())
	if !ok {
		return Task{}, unknownKind(payload.Kind())
	}
	if !spec.owns(payload) {
		return Task{}, problem("payload", "is a %T; a task of kind %s takes the payload of package tasks", payload, spec.Kind)
	}
	payload, model, problems, err := c.checkPayload(payload, spec, o.Model)
	if err != nil {
		return Task{}, err
	}
	o.Model = model
	problems = append(problems, o.check(now, c.cfg.WebhookNetworks)...)
	if o.MaxNeurons > 0 && len(problems) == 0 {
		problems = append(problems, checkBudget(payload, model, o.MaxNeurons)...)
	}
	oneOf(&problems, "accept", string(o.Durability), string(InStore), string(InRedis))
	if o.Durability == InStore && c.cfg.Store == nil {
		problems.add("accept", "store wants a client with a Store")
	}
	if err := problems.err(); err != nil {
		return Task{}, err
	}
	return c.build(payload, spec, o, now)
}

// checkPayload finds the problems of a payload and its model. It returns the payload in
// the form that is sent, and the model, which is the kind's default when empty.
func (c *Client) checkPayload(payload Payload, spec Spec, id string) (Payload, string, ValidationError, error) {
	var problems ValidationError
	if err := payload.Validate(); err != nil && !errors.As(err, &problems) {
		return nil, "", nil, err
	}
	problems = append(ValidationError{}, problems...)
	if t, ok := payload.(Transcription); ok && t.Audio.Path != "" {
		problems.add("audio.path", "only the command line uploads files; put it into the bucket and give its key")
	}
	if t, ok := payload.(Transcription); ok && t.Audio.Key != "" && !strings.HasPrefix(t.Audio.Key, c.cfg.Tenant+"/") {
		problems.add("audio.key", "must begin with %s/", c.cfg.Tenant)
	}
	if id == "" {
		id = spec.Model()
	}
	model, found := c.checkModel(id, spec.Kind)
	problems = append(problems, found...)
	if model.ID != "" && len(found) == 0 {
		problems = append(problems, spec.check(payload, model)...)
		if f, ok := payload.(interface{ folded(catalogue.Model) Payload }); ok {
			payload = f.folded(model)
		}
	}
	return payload, id, problems, nil
}

// plain returns the payload itself if a pointer to it was passed; false for nil.
func plain(p Payload) (Payload, bool) {
	v := reflect.ValueOf(p)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if !v.IsValid() || v.Kind() == reflect.Pointer {
		return nil, false
	}
	return reflect.TypeAssert[Payload](v)
}

func (c *Client) build(payload Payload, spec Spec, o Options, now time.Time) (Task, error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return Task{}, fmt.Errorf("encode the payload: %w", err)
	}
	t := Task{
		Version: 1, ID: newID(c.cfg.Tenant, o.space, o.IdempotencyKey), Tenant: c.cfg.Tenant,
		Kind: spec.Kind, Lane: o.Lane, Model: o.Model, Payload: body,
		Digest: digest(string(spec.Kind), o.Model, string(body)), CreatedAt: now.UTC(),
		StartAt: o.StartAt.UTC(), Deadline: o.Deadline.UTC(), Metadata: o.Metadata, Webhook: o.Webhook, MaxNeurons: o.MaxNeurons, Spend: o.Spend,
		Origin: o.origin, ResultIn: InRedis,
	}
	switch {
	case c.cfg.Store != nil:
		t.ResultIn = InStore
	case len(body) > withoutBox:
		return Task{}, problem("payload", "has %d bytes, more than %d: give the client a Store for large inputs", len(body), withoutBox)
	}
	t.Pending = c.cfg.Store != nil && cmp.Or(o.Durability, c.cfg.Durability) != InRedis
	if t.Lane == "" {
		t.Lane = Interactive
	}
	if o.StartAt.IsZero() || !o.StartAt.After(now) {
		t.StartAt = time.Time{}
	}
	if o.Deadline.IsZero() {
		age := spec.MaxAge
		if o.Spend == SpendFree {
			age = freeMaxAge
		}
		t.Deadline = later(now, t.StartAt).Add(age).UTC()
	}
	return t, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

var modelID = regexp.MustCompile(`^@(cf|hf)/[a-z0-9-]+/[A-Za-z0-9][A-Za-z0-9._-]*$`)

// validModel reports whether a model id has a valid form. The id becomes part of an API
// path.
func validModel(id string) bool { return len(id) <= 200 && modelID.MatchString(id) }

// checkModel finds a model that supports the kind. It returns the zero Model for an
// unknown one if unknown models are allowed.
func (c *Client) checkModel(id string, k Kind) (catalogue.Model, ValidationError) {
	var p ValidationError
	m, known := catalogue.Find(id)
	switch {
	case !known && !validModel(id):
		p.add("model", "%s is no model id; they look like %s", quote(id), catalogue.Default(string(k)).ID)
	case !known && !c.cfg.AllowUnknownModel:
		p.add("model", "%s is unknown%s; --allow-unknown-model lets it through", id, nearModel(id, k))
	case !known:
	case m.Withdrawn(time.Now()) && !c.cfg.AllowUnknownModel:
		p.add("model", "%s was withdrawn on %s%s; --allow-unknown-model lets it through, since the API may answer with its successor", id, m.WithdrawnOn, successor(m))
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

// nearModel hints at the model of a kind whose id is most similar to an unknown one.
func nearModel(id string, k Kind) string {
	var known []string
	for _, m := range catalogue.All() {
		if m.Kind == string(k) && m.WithdrawnOn == "" {
			known = append(known, m.ID)
		}
	}
	meant := spelling.Nearest(id, known, 8)
	if meant == "" {
		return ""
	}
	return "; did you mean " + meant + "?"
}

// keySpace separates the idempotency keys of different producers: people, schedules,
// retries, batches.
type keySpace string

const (
	personKeys   keySpace = ""
	scheduleKeys keySpace = "schedule/"
	retryKeys    keySpace = "retry of "
	batchKeys    keySpace = "batch"
)

// newID returns the id of a task. It is random, or derived from the idempotency key so
// that a repeated call finds the same task. It never contains the producer's own text.
//
// Schedules and retries derive their ids from keys that begin with the name of their
// space, as they always have. A person's key that looks like one of those gets a
// different id. All other keys keep the ids of earlier versions.
func newID(tenant string, space keySpace, key string) string {
	if key == "" {
		return "t_" + strings.ReplaceAll(uuid.Must(uuid.NewV7()).String(), "-", "")
	}
	words := []string{tenant, string(space) + key}
	if space == batchKeys {
		words = []string{tenant, string(space), key}
	}
	if space == personKeys && (strings.HasPrefix(key, string(scheduleKeys)) || strings.HasPrefix(key, string(retryKeys))) {
		words = []string{tenant, "key", key} // a key cannot contain the separator byte
	}
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return "t_" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:26])
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// Check reports the problems for which Enqueue of this client would refuse a task, without
// enqueuing it.
func (c *Client) Check(p Payload, opts ...Option) error {
	var o Options
	for _, set := range opts {
		set(&o)
	}
	_, err := c.prepare(p, o, time.Now())
	return err
}

// Check reports the problems for which Enqueue would refuse a task, without enqueuing it. It
// knows no tenant: the recording of any tenant passes. Client.Check does.
func Check(p Payload, opts ...Option) error {
	c := Config{Store: storage.NewMemory()}
	if t, ok := plain(p); ok {
		if recording, ok := t.(Transcription); ok {
			if tenant, _, _ := strings.Cut(recording.Audio.Key, "/"); tenantName.MatchString(tenant) {
				c.Tenant = tenant
			}
		}
	}
	return newClient(c).Check(p, opts...)
}
