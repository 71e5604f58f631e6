package limit

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
	reportLua string
	report    = redis.NewScript(reportLua)
)

// Outcome is what a call has met, as far as a gate is concerned.
type Outcome string

// The outcomes.
const (
	Passed    Outcome = "passed"
	Ended     Outcome = "ended"     // it failed in a way that says nothing about the limit
	Throttled Outcome = "throttled" // too many requests: the gate closes for all
	Busy      Outcome = "busy"      // no capacity: the gate narrows
	Quota     Outcome = "quota"     // the account's day is spent: all gates close until 00:00 UTC
	Refused   Outcome = "refused"   // the account is: after one confirming call a person must open the gate
)

// Closing is what a report has led to. The zero value: the gate is open.
type Closing struct {
	For time.Duration // from now; 0 means it is open
	New bool          // this report closed it; true once in the fleet
	Why string
}

// Done gives the place back and tells the gate what the call met. advice is the API's
// own Retry-After, 0 when it gave none. An error means that the gate could not be told.
func (p *Place) Done(ctx context.Context, o Outcome, advice time.Duration) (Closing, error) {
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

func (g *Gate) report(ctx context.Context, got granted, o Outcome, advice time.Duration, inFlight int) (Closing, error) {
	switch o {
	case Quota:
		advice = rand.N(30 * time.Second)
	case Busy:
		advice = rand.N(500 * time.Millisecond)
	}
	probe := 0
	if got.probe {
		probe = 1
	}
	reply, err := report.Run(ctx, g.cfg.Redis, []string{Key(got.name)},
		string(o), got.at, probe, advice.Microseconds(), g.process, inFlight).Slice()
	if err != nil || len(reply) != 3 {
		return Closing{}, fmt.Errorf("tell the gate of %s: %w", got.name, err)
	}
	wait, _ := reply[0].(int64)
	first, _ := reply[1].(int64)
	why, _ := reply[2].(string)
	if o == Quota {
		g.cfg.Redis.SAdd(ctx, index, Account)
	}
	return Closing{For: time.Duration(wait) * time.Microsecond, New: first == 1, Why: why}, nil
}
