package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/objects"
	"golang.org/x/time/rate"
)

// caller identifies the sender of a request.
type caller struct {
	tenant string
	keyID  string       // empty on an open server
	scopes []keys.Scope // nil means all, on an open server
}

func (c caller) allows(s keys.Scope) bool { return c.scopes == nil || slices.Contains(c.scopes, s) }

type callerKey struct{}

// callerOf returns the caller of a request that admit let through.
func callerOf(ctx context.Context) caller {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		panic("no caller: the route has no scope")
	}
	return c
}

// openTenant is the tenant of callers without a key, on an open server.
const openTenant = objects.DefaultTenant

// authenticate identifies the caller. A server on loopback is open until its first key is
// made.
func (s *Server) authenticate(req *http.Request) (caller, *Problem) {
	credentials := req.Header["Authorization"]
	switch {
	case len(credentials) > 1:
		return caller{}, newProblem(codeAmbiguousAuth, "")
	case len(credentials) == 0:
		return s.withoutKey(req)
	}
	address := s.addressOf(req)
	scheme, text, _ := strings.Cut(credentials[0], " ")
	text = strings.TrimSpace(text)
	// An address that guesses must not make this server read the bucket each time. Keys in
	// use are cached, so they work on although another caller of the address guesses.
	if wait := s.limits.failedTooOften(address); wait > 0 && !s.keys.Cached(text) {
		return caller{}, newProblem(codeTooManyAttempts, "").retryAfter(wait)
	}
	k, err := keys.Key{}, keys.ErrUnknown
	if strings.EqualFold(scheme, "bearer") {
		k, err = s.keys.Find(req.Context(), text)
	}
	switch {
	case errors.Is(err, keys.ErrUnknown):
		// An SDK may insist on sending a key: an open server takes any.
		if open, problem := s.withoutKey(req); problem == nil {
			return open, nil
		}
		s.limits.failed(address)
		s.log.Info("request with a wrong key refused", "address", address)
		return caller{}, unauthorized()
	case err != nil:
		s.log.Warn("keys not read", "error", err)
		return caller{}, newProblem(codeUnavailable, "").retryAfter(5 * time.Second)
	}
	if wait := s.rates.use(req.Context(), k); wait > 0 {
		return caller{}, newProblem(codeKeyRate, "").retryAfter(wait)
	}
	return caller{tenant: k.Tenant, keyID: k.ID, scopes: append([]keys.Scope{}, k.Scopes...)}, nil
}

// withoutKey lets a caller without a key in if the server is open.
func (s *Server) withoutKey(req *http.Request) (caller, *Problem) {
	needed, err := s.keys.Any(req.Context())
	switch {
	case err != nil:
		s.log.Warn("keys not read", "error", err)
		return caller{}, newProblem(codeUnavailable, "").retryAfter(5 * time.Second)
	case needed || !s.onLoopback():
		return caller{}, unauthorized()
	case !loopbackHost(req.Host): // a page of another site whose name leads here
		return caller{}, newProblem(codeHost, "")
	}
	return caller{tenant: openTenant}, nil
}

func unauthorized() *Problem {
	return newProblem(codeUnauthorized, "").with("WWW-Authenticate", `Bearer realm="neuronmill"`)
}

// checkOrigin refuses requests that a browser sends for a page of another site. Other
// clients send none of the headers that it looks at.
func (s *Server) checkOrigin(req *http.Request) *Problem {
	var protection http.CrossOriginProtection
	if protection.Check(req) != nil {
		return newProblem(codeCrossOrigin, "")
	}
	return nil
}

func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// addressOf returns the address of a caller, of IPv6 the network that one customer has.
// Behind a proxy it is what the proxy has added to X-Forwarded-For; what a caller wrote
// there itself comes before that.
func (s *Server) addressOf(req *http.Request) string {
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		return req.RemoteAddr
	}
	if s.cfg.BehindProxy {
		all := strings.Split(strings.Join(req.Header.Values("X-Forwarded-For"), ","), ",")
		if last := strings.TrimSpace(all[len(all)-1]); net.ParseIP(last) != nil {
			host = last
		}
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return ip.Mask(net.CIDRMask(64, 128)).String()
	}
	return host
}

// limiters limit the requests of addresses that send wrong keys.
type limiters struct {
	mu        sync.Mutex
	addresses map[string]*rate.Limiter
}

const (
	mostLimiters    = 10_000
	failuresMinutes = 10 // wrong keys that an address may send in a minute
)

func newLimiters() *limiters {
	return &limiters{addresses: map[string]*rate.Limiter{}}
}

// waitFor takes a token, or returns how long it takes until there is one.
func waitFor(l *rate.Limiter, now time.Time) time.Duration {
	r := l.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// failed counts a wrong key.
func (l *limiters) failed(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addresses[address] == nil {
		if len(l.addresses) >= mostLimiters {
			clear(l.addresses)
		}
		l.addresses[address] = rate.NewLimiter(rate.Every(time.Minute/failuresMinutes), failuresMinutes)
	}
	l.addresses[address].Allow()
}

// failedTooOften returns how long an address must wait before it may try a key again.
func (l *limiters) failedTooOften(address string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.addresses[address]
	if limit == nil || limit.Tokens() >= 1 {
		return 0
	}
	return time.Duration((1 - limit.Tokens()) * float64(time.Minute/failuresMinutes))
}
