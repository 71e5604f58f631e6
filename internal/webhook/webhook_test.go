package webhook_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// received is a request that a receiver got.
type received struct {
	at   time.Time
	url  string
	head http.Header
	body []byte
}

// receivers answer the requests of a sender.
type receivers struct {
	mu     sync.Mutex
	got    []received
	answer func(*http.Request) (*http.Response, error)
}

func (r *receivers) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.got = append(r.got, received{time.Now(), req.URL.String(), req.Header, body})
	answer := r.answer
	r.mu.Unlock()
	return answer(req)
}

func status(code int, headers ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i+1 < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("thanks"))}, nil
	}
}

// post is a sender that runs every second, as the leader runs it.
type post struct {
	*receivers
	t       *testing.T
	queue   *webhook.Queue
	sender  *webhook.Sender
	signers []webhook.Signer
	every   time.Duration // 0 means webhook.SendEvery
}

func newPost(t *testing.T, secret string, answer func(*http.Request) (*http.Response, error)) *post {
	signers, err := webhook.ParseSecrets(secret)
	require.NoError(t, err)
	return newPostEvery(t, 0, signers, answer)
}

func newPostEvery(t *testing.T, every time.Duration, signers []webhook.Signer, answer func(*http.Request) (*http.Response, error)) *post {
	p := &post{receivers: &receivers{answer: answer}, t: t, signers: signers, every: every}
	p.queue = &webhook.Queue{Redis: redistest.Memory(t), BaseURL: "https://mill.example/"}
	p.lead(signers)
	return p
}

// lead makes a sender the leader until the test ends.
func (p *post) lead(signers []webhook.Signer) (stop func()) {
	s := &webhook.Sender{Queue: p.queue, Signers: signers, HTTP: &http.Client{Transport: p.receivers}, Log: slog.New(slog.DiscardHandler)}
	p.sender = s
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			next, err := s.Run(ctx)
			if err != nil && ctx.Err() == nil {
				p.t.Error(err)
			}
			if next == 0 {
				next = cmp.Or(p.every, webhook.SendEvery)
			}
			select {
			case <-ctx.Done():
			case <-time.After(next):
			}
		}
		s.Wait()
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	p.t.Cleanup(stop)
	return stop
}

// end ends a task with a webhook.
func (p *post) end(id, url string) {
	p.t.Helper()
	pipe := p.queue.Redis.Pipeline()
	p.queue.Add(p.t.Context(), pipe, tasks.Task{
		ID: id, Tenant: "acme", Kind: tasks.KindText, Model: "@cf/a/b", Webhook: url, CreatedAt: time.Now().UTC(), Metadata: map[string]string{"order": "<42>"},
	}, tasks.Result{Status: tasks.Completed, FinishedAt: time.Now().UTC(), Attempts: 1, Usage: tasks.Usage{Neurons: 2.5}})
	_, err := pipe.Exec(p.t.Context())
	require.NoError(p.t, err)
}

func (p *post) requests() []received {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]received{}, p.got...)
}

func (p *post) state(id string) webhook.State {
	d, err := p.queue.Get(p.t.Context(), webhook.ID(id))
	require.NoError(p.t, err)
	return d.State
}

const secret = "0123456789abcdef0123456789abcdef"

func TestAWebhookIsSentOnceWithSignaturesThatVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, secret+" fedcba9876543210fedcba9876543210", status(200))
		p.end("t_a", "https://shop.example/hook?token=1")
		time.Sleep(5 * time.Second)
		p.end("t_a", "https://shop.example/hook?token=1")
		time.Sleep(time.Minute)
		require.Len(t, p.requests(), 1, "an end that is announced again is not sent again")
		got := p.requests()[0]
		require.Equal(t, "https://shop.example/hook?token=1", got.url)
		require.Equal(t, "msg_t_a", got.head.Get("webhook-id"))
		require.JSONEq(t, `{"type":"task.completed","timestamp":"2000-01-01T00:00:00Z","data":{"id":"t_a","kind":"text","model":"@cf/a/b","status":"completed","error":null,
			"neurons":2.5,"attempts":1,"created_at":"2000-01-01T00:00:00Z","finished_at":"2000-01-01T00:00:00Z","metadata":{"order":"<42>"},
			"urls":{"self":"https://mill.example/v1/tasks/t_a","result":"https://mill.example/v1/tasks/t_a/result"}}}`, string(got.body))

		content := []byte("msg_t_a." + got.head.Get("webhook-timestamp") + "." + string(got.body))
		signatures := strings.Fields(got.head.Get("webhook-signature"))
		require.Len(t, signatures, 4, "two of each secret")
		for i, s := range p.signers {
			key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.Secret("acme"), "whsec_"))
			require.NoError(t, err)
			mac := hmac.New(sha256.New, key)
			mac.Write(content)
			require.Equal(t, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)), signatures[2*i])
			public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.PublicKey(), "whpk_"))
			require.NoError(t, err)
			signature, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signatures[2*i+1], "v1a,"))
			require.NoError(t, err)
			require.True(t, ed25519.Verify(public, content, signature))
			require.NotEqual(t, s.Secret("acme"), s.Secret("beta"), "each tenant has a key of its own")
		}
		require.Equal(t, webhook.Delivered, p.state("t_a"))
		log, err := p.queue.Log(t.Context(), "acme", 10)
		require.NoError(t, err)
		require.Len(t, log, 1)
		require.Equal(t, "shop.example", log[0].Host)
		document, err := json.Marshal(log)
		require.NoError(t, err)
		require.NotContains(t, string(document), "token")
	})
}

func TestAReceiverThatIsDownIsTriedForThreeDaysWithOneID(t *testing.T) {
	realtest.Long(t)
	synctest.Test(t, func(t *testing.T) {
		signers, err := webhook.ParseSecrets(secret)
		require.NoError(t, err)
		refused := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }
		p := newPostEvery(t, 30*time.Second, signers, refused)
		begun := time.Now()
		p.end("t_a", "https://shop.example/hook")
		time.Sleep(5 * 24 * time.Hour)
		got := p.requests()
		require.Len(t, got, 11)
		for i, r := range got {
			require.Equal(t, "msg_t_a", r.head.Get("webhook-id"))
			require.Equal(t, got[0].body, r.body)
			if i > 0 {
				require.Greater(t, r.at.Sub(got[i-1].at), 4*time.Second)
			}
		}
		require.InDelta(t, 73.6, got[10].at.Sub(begun).Hours(), 8)
		require.Equal(t, webhook.Failed, p.state("t_a"))
		require.Zero(t, p.queue.Redis.ZCard(t.Context(), webhook.DueKey).Val())
		p.mu.Lock()
		p.answer = status(204)
		p.mu.Unlock()
		require.ErrorIs(t, p.queue.Replay(t.Context(), "beta", webhook.ID("t_a")), webhook.ErrUnknown, "another tenant's")
		require.NoError(t, p.queue.Replay(t.Context(), "acme", webhook.ID("t_a")))
		time.Sleep(31 * time.Second)
		require.Len(t, p.requests(), 12)
		require.Equal(t, webhook.Delivered, p.state("t_a"))
		time.Sleep(8 * 24 * time.Hour)
		require.Empty(t, p.queue.Redis.Keys(t.Context(), "*").Val(), "everything expires")
	})
}

func TestTheReceiverDecidesWhenItIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, secret, status(503, "Retry-After", "3600"))
		p.end("t_a", "https://shop.example/hook")
		time.Sleep(59 * time.Minute)
		require.Len(t, p.requests(), 1)
		time.Sleep(2 * time.Minute)
		require.Len(t, p.requests(), 2)
	})
}

func TestAnEndpointThatIsGoneGetsNothingMoreUntilAReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, secret, status(http.StatusGone))
		p.end("t_a", "https://shop.example/hook")
		time.Sleep(5 * time.Second)
		p.end("t_b", "https://shop.example/hook")
		time.Sleep(time.Hour)
		require.Len(t, p.requests(), 1)
		require.Equal(t, webhook.Gone, p.state("t_a"))
		require.Equal(t, webhook.Gone, p.state("t_b"))
		p.end("t_c", "https://shop.example/other")
		time.Sleep(5 * time.Second)
		require.Len(t, p.requests(), 2, "another endpoint")
		require.NoError(t, p.queue.Replay(t.Context(), "acme", webhook.ID("t_b")))
		time.Sleep(5 * time.Second)
		require.Len(t, p.requests(), 3)
	})
}

func TestAReceiverThatHangsDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, secret, func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == "slow.example" {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			return status(200)(req)
		})
		for id := range strings.SplitSeq("abcdefghijklmnopqrstuvwxyz", "") {
			p.end("t_slow_"+id, "https://slow.example/hook")
		}
		p.end("t_fast", "https://shop.example/hook")
		time.Sleep(3 * time.Second)
		require.Equal(t, webhook.Delivered, p.state("t_fast"))
		slow := 0
		for _, r := range p.requests() {
			if strings.Contains(r.url, "slow") {
				slow++
			}
		}
		require.Equal(t, 4, slow, "at most four at a time to a host")
	})
}

func TestWhatMayNotBeReachedIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, secret, status(302, "Location", "https://127.0.0.1/"))
		for _, url := range []string{"http://shop.example/", "https://127.0.0.1/", "https://[::1]/", "https://shop.example:8443/", "https://a:b@shop.example/", "ftp://shop.example/"} {
			p.end("t_"+url, url)
		}
		time.Sleep(10 * time.Second)
		require.Empty(t, p.requests())
		p.end("t_a", "https://shop.example/")
		time.Sleep(2 * time.Second)
		require.Len(t, p.requests(), 1, "a redirect is not followed")
		require.Equal(t, webhook.Waiting, p.state("t_a"))
	})
}

func TestWebhooksWaitForASecretAndForTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, "", func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		p.end("t_a", "https://shop.example/")
		time.Sleep(time.Hour)
		require.Empty(t, p.requests())
		signers, err := webhook.ParseSecrets(secret)
		require.NoError(t, err)
		stop := p.lead(signers)
		time.Sleep(2 * time.Second)
		require.Len(t, p.requests(), 1)
		stop() // in the middle of a try
		p.mu.Lock()
		p.answer = status(200)
		p.mu.Unlock()
		p.lead(signers)
		time.Sleep(2 * time.Minute)
		require.Len(t, p.requests(), 2, "the try that was broken off is repeated")
		require.Equal(t, webhook.Delivered, p.state("t_a"))
	})
}

func TestABodyIsSmallWhateverTheMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, secret, status(200))
		metadata := map[string]string{}
		for k := range strings.SplitSeq("abcdefghijklmnop", "") {
			metadata[k] = strings.Repeat("\u2028", 300) // six bytes each in JSON
		}
		pipe := p.queue.Redis.Pipeline()
		p.queue.Add(t.Context(), pipe, tasks.Task{ID: "t_a", Tenant: "acme", Webhook: "https://shop.example/", Metadata: metadata},
			tasks.Result{Status: tasks.Failed, Error: &tasks.TaskError{Code: tasks.CodeCancelled, Message: "x"}})
		_, err := pipe.Exec(t.Context())
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		require.Less(t, len(p.requests()[0].body), webhook.MostBody)
		require.Contains(t, string(p.requests()[0].body), `"type":"task.failed"`)
	})
}

func TestShortSecretsAreRefusedWithoutShowingThem(t *testing.T) {
	_, err := webhook.ParseSecrets("tooshort")
	require.ErrorContains(t, err, "has 8 characters, fewer than 32")
	require.NotContains(t, err.Error(), "tooshort")
}
