package gate

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed report.lua
	reportLua    string
	reportScript = redis.NewScript(commonLua + reportLua)
)

// Outcome classifies the end of a call for its gate.
type Outcome string

// The outcomes.
const (
	Passed    Outcome = "passed"
	Ended     Outcome = "ended"     // it failed in a way that says nothing about the limit
	Throttled Outcome = "throttled" // too many requests: the gate closes for all
	Busy      Outcome = "busy"      // no capacity: the gate narrows
	Quota     Outcome = "quota"     // the account's day is spent: all gates close until 00:00 UTC
	// Refused: the account is. The gate closes; after one confirming call, single calls
	// find out after 1, 2, 5 and then every 15 minutes whether it may open.
	Refused Outcome = "refused"
)

// returned is the outcome of a call that was let through and not made.
const returned Outcome = "returned"

// Closing describes the gate after a report. The zero value means open.
type Closing struct {
	For time.Duration // from now; 0 means it is open
	New bool          // this report closed it; true once in the fleet
	Why string
}

// Release returns the permit and reports the outcome of the call. advice is the API's own
// Retry-After, 0 without one. An error means that the report did not reach the gate.
func (p *Permit) Release(ctx context.Context, o Outcome, advice time.Duration) (Closing, error) {
	g := p.gate
	left := map[string]int{}
	g.mu.Lock()
	for _, got := range p.got {
		if got.name != Account {
			g.at(got.name).inFlight--
		}
		left[got.name] = g.at(got.name).inFlight
	}
	g.mu.Unlock()
	var worst Closing
	for _, got := range p.got {
		told := o
		switch {
		case o == Quota && got.name == p.model:
			told = Ended
		case o != Passed && o != Quota && got.name != p.model:
			told = Ended
		}
		if !got.tell && (told == Passed || told == Ended) {
			continue
		}
		c, err := g.report(ctx, got, told, advice, left[got.name])
		if err != nil {
			return Closing{}, err
		}
		if c.For > worst.For {
			worst = c
		}
	}
	if o == Quota {
		last := p.got[len(p.got)-1]
		return g.report(ctx, granted{name: Account, at: last.at}, Quota, 0, 0)
	}
	return worst, nil
}

// GiveBack returns the permit of a call that was not made. Its slot is free again, and its
// call is not counted.
func (p *Permit) GiveBack(ctx context.Context) {
	p.gate.mu.Lock()
	for _, got := range p.got {
		if got.name != Account {
			p.gate.at(got.name).inFlight--
		}
	}
	p.gate.mu.Unlock()
	for _, got := range p.got {
		p.gate.giveBack(ctx, got)
	}
}

func (g *Gate) report(ctx context.Context, got granted, o Outcome, advice time.Duration, inFlight int) (Closing, error) {
	switch o {
	case Quota:
		advice = rand.N(30 * time.Second)
	case Busy:
		advice = rand.N(500 * time.Millisecond)
	}
	reply, err := reportScript.Run(ctx, g.cfg.Redis, keys(got.name),
		string(o), got.at, flag(got.probe), advice.Microseconds(), g.process, inFlight, got.slot, got.next, flag(got.at > 0)).Slice()
	if err != nil || len(reply) != 3 {
		return Closing{}, fmt.Errorf("tell the gate of %s: %w", got.name, err)
	}
	g.mu.Lock()
	l := g.at(got.name)
	l.told.inFlight = inFlight
	g.mu.Unlock()
	wait, _ := reply[0].(int64)
	first, _ := reply[1].(int64)
	why, _ := reply[2].(string)
	if o == Quota {
		g.cfg.Redis.SAdd(ctx, index, Account)
	}
	return Closing{For: time.Duration(wait) * time.Microsecond, New: first == 1, Why: why}, nil
}

// flag is a bool as the scripts read it.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
