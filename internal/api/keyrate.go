package api

import (
	"context"
	_ "embed"
	"log/slog"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"
)

//go:embed keyrate.lua
var keyRateLua string

var keyRateScript = redis.NewScript(keyRateLua)

// keyRateKey is the Redis key of a key's allowance. It expires when the allowance is whole.
func keyRateKey(id string) string { return "neuronmill:keyrate:" + id }

const (
	// askTime is how long Redis may take to count a request.
	askTime = time.Second
	// awayTime is how long this server counts by itself after Redis did not answer.
	awayTime = 5 * time.Second
)

// keyRates limit the requests of keys over all servers. Redis counts, with one command a
// request and none for a request of a key that is known to have to wait. While Redis does
// not answer each server counts by itself, so that no request is refused because of that.
type keyRates struct {
	redis redis.UniversalClient
	log   *slog.Logger

	mu    sync.Mutex
	keys  map[string]*keyRate // by id of the key
	asked time.Time           // Redis is not asked before then
}

// keyRate has this server's part in the rate of a key.
type keyRate struct {
	perMinute int
	until     time.Time     // no request may run before then
	own       *rate.Limiter // counts while Redis is away
}

func newKeyRates(r redis.UniversalClient, log *slog.Logger) *keyRates {
	return &keyRates{redis: r, log: log, keys: map[string]*keyRate{}}
}

// burst is how many requests may come at once: a tenth of the minute's.
func burst(perMinute int) int { return max(1, perMinute/10) }

// use counts a request of a key. It returns how long to wait if the key has none left.
func (l *keyRates) use(ctx context.Context, k keys.Key) time.Duration {
	if k.PerMinute == 0 {
		return 0
	}
	now := time.Now()
	known, ask := l.known(k, now)
	if wait := known.until.Sub(now); wait > 0 {
		return wait
	}
	if !ask {
		return l.useOwn(k.ID, now)
	}
	// A caller that leaves is no sign of a missing Redis.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	interval := time.Minute.Microseconds() / int64(k.PerMinute)
	wait, err := keyRateScript.Run(ctx, l.redis, []string{keyRateKey(k.ID)}, interval, burst(k.PerMinute)).Int64()
	if err != nil {
		l.away(err, now)
		return l.useOwn(k.ID, now)
	}
	return l.keep(k.ID, now, time.Duration(wait)*time.Microsecond)
}

// known returns a copy of the entry of a key, and whether Redis may be asked.
func (l *keyRates) known(k keys.Key, now time.Time) (keyRate, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.keys[k.ID]
	if found == nil || found.perMinute != k.PerMinute {
		if len(l.keys) >= mostLimiters {
			clear(l.keys)
		}
		found = &keyRate{perMinute: k.PerMinute, own: rate.NewLimiter(rate.Limit(float64(k.PerMinute)/60), burst(k.PerMinute))}
		l.keys[k.ID] = found
	}
	return *found, !now.Before(l.asked)
}

// useOwn counts a request on this server alone.
func (l *keyRates) useOwn(id string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found := l.keys[id]; found != nil {
		return waitFor(found.own, now)
	}
	return 0
}

// keep remembers until when a key has to wait, so that Redis is not asked before.
func (l *keyRates) keep(id string, now time.Time, wait time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found := l.keys[id]; found != nil && wait > 0 {
		found.until = now.Add(wait)
	}
	return wait
}

// away notes that Redis did not answer. It is logged once while that lasts.
func (l *keyRates) away(err error, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.asked) {
		return
	}
	if now.Sub(l.asked) > awayTime {
		l.log.Warn("requests of keys are counted on each server alone: Redis does not answer", "error", err)
	}
	l.asked = now.Add(awayTime)
}
