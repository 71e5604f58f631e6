package api

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/limits"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/stretchr/testify/require"
)

// bench is a server with its parts, on memory unless its Config has a store.
type bench struct {
	*Server
	t     *testing.T
	store storage.Store
	url   string
	key   string // of tenant default, with all scopes; empty on an open server

	transport http.RoundTripper // nil means the default
}

// newBench starts an open server on loopback.
func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchWith(t, Config{})
}

func newBenchWith(t *testing.T, cfg Config) *bench {
	t.Helper()
	b := newUnservedBench(t, cfg)
	listener := httptest.NewServer(b.Server)
	t.Cleanup(func() {
		b.stop()
		listener.Close()
	})
	b.url = listener.URL
	return b
}

// newUnservedBench makes a server that listens nowhere.
func newUnservedBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	rdb := redistest.Memory(t)
	if cfg.Store == nil {
		cfg.Store = storage.NewMemory()
	}
	cfg.Redis, cfg.Log = rdb, slog.New(slog.DiscardHandler)
	var none limits.Limits
	cfg.Gate = gate.New(gate.Config{Redis: rdb, Pace: none.Pace, Total: none.Total, Log: cfg.Log})
	s, err := New(cfg)
	require.NoError(t, err)
	return &bench{Server: s, t: t, store: cfg.Store}
}

// withKeys makes a key, so that the server is no longer open.
func (b *bench) withKeys() *bench {
	b.key = b.newKey("default", keys.Scopes...)
	return b
}

func (b *bench) newKey(tenant string, scopes ...keys.Scope) string {
	b.t.Helper()
	_, text, err := keys.Create(b.t.Context(), b.store, keys.Key{Tenant: tenant, Scopes: scopes})
	require.NoError(b.t, err)
	return text
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body []byte
}

// call sends a request. Headers are "Name: value".
func (b *bench) call(method, path, body string, headers ...string) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(body))
	require.NoError(b.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if b.key != "" {
		req.Header.Set("Authorization", "Bearer "+b.key)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	return b.do(req)
}

func (b *bench) do(req *http.Request) answer {
	b.t.Helper()
	transport := b.transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	res, err := transport.RoundTrip(req)
	require.NoError(b.t, err)
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	return answer{res, all}
}

// into decodes the body.
func (a answer) into(t *testing.T, v any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(v), "%s", a.body)
}

// problem checks that an answer is a problem and returns it.
func (a answer) problem(t *testing.T, status int, code string) Problem {
	t.Helper()
	require.Equal(t, status, a.StatusCode, "%s", a.body)
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
	var p Problem
	a.into(t, &p)
	require.Equal(t, code, p.Code, "%s", a.body)
	require.Equal(t, status, p.Status)
	require.Less(t, len(a.body), 4096)
	return p
}

func TestARouteThatDoesNotExistIsAProblem(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/v2", "/v1//tasks", "/v1/tasks/../../healthz", "/healthz/", "/v1/%2e%2e/healthz"} {
		b.call(http.MethodGet, path, "").problem(t, http.StatusNotFound, codeRouteNotFound)
	}
	for _, method := range []string{http.MethodPost, "TRACE", "BREW"} {
		b.call(method, "/healthz", "").problem(t, http.StatusMethodNotAllowed, codeMethod)
	}
	require.Equal(t, "GET, HEAD", b.call(http.MethodPut, "/healthz", "").Header.Get("Allow"))
}

func TestHealthIsSaid(t *testing.T) {
	b := newBench(t)
	require.JSONEq(t, `{"status":"ok"}`, string(b.call(http.MethodGet, "/healthz", "").body))
	require.JSONEq(t, `{"ready":true,"missing":[]}`, string(b.call(http.MethodGet, "/readyz", "").body))
	b.stop()
	ready := b.call(http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, ready.StatusCode)
	require.JSONEq(t, `{"ready":false,"missing":["the server is stopping"]}`, string(ready.body))
}

func TestTheDocumentAndItsPagesLoadNothingFromElsewhere(t *testing.T) {
	b := newBench(t)
	document := b.call(http.MethodGet, "/openapi.json", "")
	require.Equal(t, http.StatusOK, document.StatusCode)
	require.Contains(t, string(document.body), `"openapi":"3.1.0"`)
	for _, path := range []string{"/docs", "/docs/errors"} {
		page := b.call(http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, page.StatusCode)
		require.NotRegexp(t, `(?i)(src|href)="?(https?:)?//`, string(page.body))
	}
}

func TestABrowserOfAnotherSiteIsRefused(t *testing.T) {
	b := newBench(t)
	b.call(http.MethodPost, "/v1/tasks", "{}", "Sec-Fetch-Site: cross-site").problem(t, http.StatusForbidden, codeCrossOrigin)
}

func TestAServerThatOthersReachNeedsKeysAndTLS(t *testing.T) {
	b := newBenchWith(t, Config{Listen: "0.0.0.0:0"})
	_, err := b.Listen(t.Context())
	require.ErrorContains(t, err, "there is no API key")
	b = newBenchWith(t, Config{Listen: ":0"}).withKeys()
	_, err = b.Listen(t.Context())
	require.ErrorContains(t, err, "without TLS")
}
