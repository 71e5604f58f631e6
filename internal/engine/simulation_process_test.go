package engine_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/redis/go-redis/v9"
)

// process is a program of the simulation: a worker or a producer. All it does to the
// outside goes through step, so that it can die or freeze between any two effects. A
// dead one is blocked there until the end of the run; as far as others can see it is
// gone.
type process struct {
	sim   *sim
	name  string
	link  *redistest.Link
	redis *redis.Client

	mu     sync.Mutex
	chance *rand.Rand    // of its network
	frozen chan struct{} // closed by thaw; nil while it runs
	dead   bool
	aim    string    // the effect at which it dies
	left   int       // effects until it dies; 0 means it lives
	away   []span    // when it was dead, frozen or cut off
	second time.Time // for which it counts commands to Redis
	sent   int       // of that second
	loops  bool      // it has sent too many
}

// span is a stretch of time; a zero end means it lasts.
type span struct{ from, to time.Time }

var errDead = errors.New("the process is dead")

func (s *sim) process(name string) *process {
	p := &process{sim: s, name: name, link: &redistest.Link{}, chance: s.plan.chance("network of " + name)}
	p.link.Lose(p.fate)
	p.redis = s.server.Client(p.link)
	p.redis.AddHook(hook{p})
	s.mu.Lock()
	s.processes = append(s.processes, p)
	if s.redisDown.Load() > 0 {
		p.link.Cut()
	}
	s.mu.Unlock()
	return p
}

// fate of a request to Redis.
func (p *process) fate([]byte) redistest.Fate {
	if p.sim.healed.Load() {
		return redistest.Delivered
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sim.plan.redisFate(p.chance.Float64())
}

// step stands before and after every effect on the outside: "redis", "store.create
// result before", "api after".
func (p *process) step(at string) error {
	p.mu.Lock()
	if p.left > 0 {
		if p.left--; p.left == 0 {
			p.aim = at
		}
	}
	if p.aim != "" && strings.Contains(at, p.aim) {
		p.mu.Unlock()
		p.kill()
		p.mu.Lock()
	}
	dead, frozen := p.dead, p.frozen
	p.mu.Unlock()
	if dead {
		<-p.sim.over
		time.Sleep(time.Second) // what tries again for ever must not do so at once
		return errDead
	}
	if frozen != nil {
		<-frozen
		return p.step(at)
	}
	return nil
}

// kill ends it at once, as SIGKILL does.
func (p *process) kill() {
	p.mu.Lock()
	first := !p.dead
	if first {
		p.dead, p.aim = true, ""
		p.away = append(p.away, span{from: time.Now()})
	}
	p.mu.Unlock()
	if first {
		p.link.Cut()
	}
}

// killAt lets it die at its next effect of this name.
func (p *process) killAt(effect string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aim = effect
}

// freeze stops it, as SIGSTOP does, until the time given here.
func (p *process) freeze(d time.Duration) {
	p.mu.Lock()
	if p.dead || p.frozen != nil {
		p.mu.Unlock()
		return
	}
	thawed := make(chan struct{})
	p.frozen = thawed
	p.mu.Unlock()
	from := time.Now()
	time.Sleep(d)
	p.mu.Lock()
	p.frozen = nil
	p.away = append(p.away, span{from, time.Now()})
	p.mu.Unlock()
	close(thawed)
}

// cutOff takes it from Redis for a while.
func (p *process) cutOff(d time.Duration) {
	from := time.Now()
	p.link.Cut()
	time.Sleep(d)
	p.mu.Lock()
	dead := p.dead
	p.away = append(p.away, span{from, time.Now()})
	p.mu.Unlock()
	if !dead {
		p.link.Mend()
	}
}

// takenForDead reports whether others had reason to think that it was dead at some
// time between two moments.
func (p *process) takenForDead(from, to time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.away {
		long := a.to.IsZero() || a.to.Sub(a.from) > 20*time.Second
		if long && a.from.Before(to) && (a.to.IsZero() || a.to.After(from)) {
			return true
		}
	}
	return false
}

// awayAround reports whether a process was dead, frozen or cut off shortly before a time:
// it may have decided its next effect long before.
func (p *process) awayAround(at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.away {
		if a.from.Before(at) && (a.to.IsZero() || a.to.Add(time.Minute).After(at)) {
			return true
		}
	}
	return false
}

// hook puts the steps around what its client asks of Redis.
type hook struct{ p *process }

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "hello" {
			return next(ctx, cmd) // the client shakes hands under a mutex, which stops a bubble's clock
		}
		if err := h.p.step("redis"); err != nil {
			cmd.SetErr(err)
			return err
		}
		h.p.sim.meterOf(h.p, 1)
		h.p.sim.touch(h.p, cmd)
		err := next(ctx, cmd)
		if dead := h.p.step("redis"); dead != nil {
			cmd.SetErr(dead)
			return dead
		}
		return err
	}
}

func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := h.p.step("redis")
		if err == nil {
			h.p.sim.meterOf(h.p, len(cmds))
			h.p.sim.touch(h.p, cmds...)
			ran := next(ctx, cmds)
			if err = h.p.step("redis"); err == nil {
				return ran
			}
		}
		for _, c := range cmds {
			c.SetErr(err)
		}
		return err
	}
}

// exchange is one call to the API as its caller saw it.
type exchange struct {
	caller *process
	at     time.Time
	whole  bool // the answer arrived to its end
	priced bool // its price arrived
}

const callHeader = "X-Simulated-Call"

// api is a process' way to the emulator.
type api struct {
	p    *process
	next http.RoundTripper
}

func (a api) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	deadly := a.p.sim.plan.deadly(string(body))
	a.dieIf(deadly, "api before")
	if err := a.p.step("api before"); err != nil {
		return nil, err
	}
	x, number := a.p.sim.newExchange(a.p)
	req.Header.Set(callHeader, strconv.Itoa(number))
	resp, err := a.next.RoundTrip(req)
	a.dieIf(deadly, "api after")
	if dead := a.p.step("api after"); dead != nil {
		if err == nil {
			resp.Body.Close()
		}
		return nil, dead
	}
	if err != nil {
		return nil, err
	}
	if price, err := strconv.ParseFloat(resp.Header.Get("Cf-Ai-Neurons"), 64); err == nil && price > 0 {
		a.p.sim.mu.Lock()
		x.priced = true
		a.p.sim.mu.Unlock()
	}
	resp.Body = &answerBody{resp.Body, a.p, x}
	return resp, nil
}

// touch notes that a process read or wrote the records of tasks in Redis: it may have
// counted a call, and died before it sent one.
func (s *sim) touch(p *process, cmds ...redis.Cmder) {
	for _, cmd := range cmds {
		for _, arg := range cmd.Args() {
			key, ok := arg.(string)
			if !ok || !strings.HasPrefix(key, strings.TrimSuffix(taskstate.LiveKey(""), "}")) {
				continue
			}
			s.mu.Lock()
			if s.touched[key] == nil {
				s.touched[key] = map[*process]bool{}
			}
			s.touched[key][p] = true
			s.mu.Unlock()
		}
	}
}

// dieIf ends the process when its request kills it here.
func (a api) dieIf(deadly, here string) {
	if deadly == here {
		a.p.kill()
		go a.p.sim.murdered(a.p)
	}
}

type answerBody struct {
	io.ReadCloser
	p *process
	x *exchange
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.p.sim.mu.Lock()
		b.x.whole = true
		b.p.sim.mu.Unlock()
		if dead := b.p.step("api read"); dead != nil {
			return 0, dead
		}
	}
	return n, err
}
