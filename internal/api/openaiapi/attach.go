package openaiapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
)

// SDKs send a request again, silently and without an idempotency key, when a connection
// breaks. They only count: X-Stainless-Retry-Count. So each request leaves a record in
// Redis under the digest of its body. A repetition finds the record, takes the idempotency
// key in it, and so gets the same task. A request that is no repetition never attaches to
// another one: two equal questions are two tasks.

// record is the entry that a request leaves for its repetitions.
type record struct {
	Key    string `json:"key"`             // idempotency key of the task
	Digest string `json:"digest"`          // of the body
	Audio  string `json:"audio,omitempty"` // the first upload of the recording
}

// keptAfterEnd is how long a record outlives the response, which may not have arrived.
// ownKept is the same for a request with an idempotency key of the client's own.
const (
	keptAfterEnd = time.Minute
	ownKept      = 24 * time.Hour
)

func digestOf(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// recordKey is the Redis key of a request's record: of the same caller, route and body.
func (x *exchange) recordKey(digest string) string {
	return "neuronmill:openai:" + digestOf([]byte(x.caller.Tenant), []byte(x.caller.Key), []byte(x.r.URL.Path), []byte(digest))
}

// waitersKey is the Redis key of the number of requests that wait for a task.
func waitersKey(key string) string { return "neuronmill:openai:waiters:" + digestOf([]byte(key)) }

// isRepetition reports whether an SDK sends the request again.
func (x *exchange) isRepetition() bool {
	n := x.r.Header.Get("X-Stainless-Retry-Count")
	return n != "" && n != "0"
}

// attach finds the record of the request that this one repeats, or leaves a new one. It
// also counts this request as waiting. attached is false for a new task.
func (h *Handler) attach(ctx context.Context, x *exchange, j *job, life time.Duration) (attached bool, err error) {
	j.record, j.keep = x.recordKey(j.digest), keptAfterEnd
	own := x.r.Header.Get("Idempotency-Key")
	if own != "" {
		if err := checkOwnKey(own); err != nil {
			return false, err
		}
		j.record, j.keep = x.recordKey("own "+own), ownKept
	}
	j.key = record{Key: "openai/" + uuid.NewString(), Digest: j.digest, Audio: j.audio}
	document, err := json.Marshal(j.key)
	if err != nil {
		return false, fmt.Errorf("encode the record of a request: %w", err)
	}
	if own != "" || x.isRepetition() {
		attached, err = h.earlier(ctx, j, document, life)
	} else {
		err = h.cfg.Redis.Set(ctx, j.record, document, life).Err()
	}
	if err != nil {
		return false, fmt.Errorf("leave a record of the request: %w", err)
	}
	pipe := h.cfg.Redis.Pipeline()
	if attached {
		pipe.Expire(ctx, j.record, max(life, j.keep))
	}
	pipe.Incr(ctx, waitersKey(j.key.Key))
	pipe.Expire(ctx, waitersKey(j.key.Key), life)
	if _, err := pipe.Exec(ctx); err != nil {
		return false, fmt.Errorf("count a waiting request: %w", err)
	}
	j.counted = true
	return attached, nil
}

// checkOwnKey checks a client's own idempotency key.
func checkOwnKey(own string) error {
	if len(own) > 200 || strings.ContainsFunc(own, func(r rune) bool { return r < '!' || r > '~' }) {
		return openai.Invalid("Idempotency-Key", "must have at most 200 visible ASCII characters")
	}
	return nil
}

func mismatch() error {
	e := openai.Invalid("Idempotency-Key", "belongs to another request; use another key")
	e.Status, e.Code, e.Final = http.StatusConflict, tasks.CodeIdempotencyMismatch, true
	return e
}

// earlier takes the record that an earlier request left. Without one it leaves document.
// Of several requests at the same time one leaves its record, and the others take it.
func (h *Handler) earlier(ctx context.Context, j *job, document []byte, life time.Duration) (found bool, err error) {
	err = h.cfg.Redis.SetArgs(ctx, j.record, document, redis.SetArgs{Mode: "NX", TTL: life}).Err()
	if !errors.Is(err, redis.Nil) {
		return false, err
	}
	text, err := h.cfg.Redis.Get(ctx, j.record).Result()
	var earlier record
	switch {
	case errors.Is(err, redis.Nil) || err == nil && json.Unmarshal([]byte(text), &earlier) != nil: // expired meanwhile, or damaged
		return false, h.cfg.Redis.Set(ctx, j.record, document, life).Err()
	case err != nil:
		return false, err
	case earlier.Digest != j.digest:
		return false, mismatch()
	}
	j.key = earlier
	return true, nil
}

// detach ends the request's part in its task. A completed one leaves its record for a
// while, in case the response does not arrive. Any other end removes the record, so that a
// repetition is a new task.
func (h *Handler) detach(j *job, completed bool) {
	if !j.counted {
		return
	}
	j.counted = false
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	pipe := h.cfg.Redis.Pipeline()
	pipe.Decr(ctx, waitersKey(j.key.Key))
	if completed {
		pipe.Expire(ctx, j.record, j.keep)
	} else {
		pipe.Del(ctx, j.record)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		h.cfg.Log.Debug("the record of a request is left to expire", "task", j.id, "error", err)
	}
}

// leave ends the request's part in its task and keeps the record for a repetition at
// another server. Without one the task ends at its deadline.
func (h *Handler) leave(j *job) {
	j.abandoned, j.counted = true, false
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	h.cfg.Redis.Decr(ctx, waitersKey(j.key.Key))
}

// abandon lets a task go on for a while after its client has gone. It cancels the task
// unless the client comes back, to this process or another one.
func (h *Handler) abandon(x *exchange, j *job) {
	j.abandoned = true
	h.behind.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), h.cfg.grace+10*time.Second)
		defer cancel()
		left, err := h.cfg.Redis.Decr(ctx, waitersKey(j.key.Key)).Result()
		if err != nil || left > 0 {
			return
		}
		select {
		case <-h.closed.Done():
			return
		case <-time.After(h.cfg.grace):
		}
		waiting, err := h.cfg.Redis.Get(ctx, waitersKey(j.key.Key)).Int()
		if err != nil && !errors.Is(err, redis.Nil) || waiting > 0 {
			return
		}
		h.cancel(ctx, x, j)
		h.cfg.Redis.Del(ctx, j.record)
		if j.key.Audio != "" {
			h.deleteUpload(ctx, j.key.Audio)
		}
	})
}
