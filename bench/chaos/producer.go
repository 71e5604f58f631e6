package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
)

// order is one task as its producer knows it. Its mark is in the payload and in the
// metadata, so that calls and results can be matched to it.
type order struct {
	Mark      string
	Kind      tasks.Kind
	At        time.Time
	Key       string   // idempotency key; empty for none
	ID        string   // from the receipt
	Outcome   string   // accepted, unknown, refused
	Error     string   `json:",omitempty"`
	Bad       bool     // the API refuses its payload
	Short     bool     // its deadline is near
	Cancelled bool     // cancel was requested
	InRedis   bool     // accepted without a record in the bucket
	texts     []string // of an embedding
}

// producer enqueues random tasks.
type producer struct {
	client   *tasks.Client
	emulator *workersaitest.Server
	audio    []string // keys of recordings of different lengths
	rng      *rand.Rand
	j        *journal

	mu     sync.Mutex
	orders []*order
}

// produce enqueues about rate tasks per second until ctx ends.
func (p *producer) produce(ctx context.Context, rate int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var some []*order
		var requests []tasks.Request
		for range max(1, rate/4) {
			o, r := p.order()
			some, requests = append(some, o), append(requests, r)
		}
		wg.Go(func() { p.send(ctx, some, requests) })
	}
}

// send enqueues some tasks. It repeats those with an idempotency key until their outcome
// is known, as a careful producer does.
func (p *producer) send(ctx context.Context, some []*order, requests []tasks.Request) {
	for try := 0; len(some) > 0 && try < 30; try++ {
		sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		outcomes := p.client.EnqueueMany(sending, requests)
		cancel()
		var again []*order
		var what []tasks.Request
		p.mu.Lock()
		for i, o := range some {
			switch out := outcomes[i]; {
			case out.Err == nil:
				if o.ID != "" && o.ID != out.ID {
					o.Error = "its key led to two tasks: " + o.ID
				}
				o.ID, o.Outcome = out.ID, "accepted"
			case errors.Is(out.Err, tasks.ErrUnknownOutcome):
				o.Outcome, o.Error = "unknown", out.Err.Error()
			case o.Outcome == "":
				o.Outcome, o.Error = "refused", out.Err.Error()
			}
			if o.Key != "" && o.Outcome != "accepted" {
				again, what = append(again, o), append(what, requests[i])
			}
		}
		p.mu.Unlock()
		some, requests = again, what
		if len(some) > 0 {
			time.Sleep(500 * time.Millisecond)
		}
	}
}

// cancelSome cancels a task from time to time.
func (p *producer) cancelSome(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, 2*time.Second)
		p.mu.Lock()
		var o *order
		if n := len(p.orders); n > 0 {
			o = p.orders[max(0, n-1-int(time.Now().UnixNano()%100))]
			if o.Outcome != "accepted" {
				o = nil
			}
		}
		if o != nil {
			o.Cancelled = true
		}
		p.mu.Unlock()
		if o != nil {
			cancelling, cancel := context.WithTimeout(ctx, 10*time.Second)
			_ = p.client.Cancel(cancelling, o.ID) // the task may have ended, or Redis is unreachable
			cancel()
		}
	}
}

// order creates one task and sets the faults that its calls will meet.
func (p *producer) order() (*order, tasks.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := &order{Mark: fmt.Sprintf("zq%06dz", len(p.orders)), At: time.Now()}
	p.orders = append(p.orders, o)
	payload := p.payload(o)
	o.Kind = payload.Kind()
	options := []tasks.Option{tasks.WithMetadata(map[string]string{"mark": o.Mark})}
	if p.rng.IntN(3) == 0 {
		options = append(options, tasks.WithLane(tasks.Bulk))
	}
	if o.InRedis = p.rng.IntN(10) == 0; o.InRedis {
		options = append(options, tasks.WithDurability(tasks.InRedis))
	}
	if p.rng.IntN(2) == 0 {
		o.Key = "order-" + o.Mark
		options = append(options, tasks.WithIdempotencyKey(o.Key))
	}
	switch p.rng.IntN(40) {
	case 0:
		options = append(options, tasks.WithDelay(time.Duration(1+p.rng.IntN(10))*time.Second))
	case 1:
		o.Short = true
		options = append(options, tasks.WithTimeToLive(2*time.Second))
	}
	if p.rng.IntN(100) < 15 {
		p.arm(o)
	}
	return o, tasks.Request{Payload: payload, Options: options}
}

func (p *producer) payload(o *order) tasks.Payload {
	switch n := p.rng.IntN(100); {
	case n < 40:
		texts := make([]string, 1+p.rng.IntN(3))
		for i := range texts {
			texts[i] = fmt.Sprintf("%s text %d", o.Mark, i)
		}
		o.texts = texts
		return tasks.Embedding{Texts: texts}
	case n < 43: // too large for Redis
		texts := make([]string, 90)
		for i := range texts {
			texts[i] = fmt.Sprintf("%s %d %s", o.Mark, i, strings.Repeat("grain ", 40))
		}
		o.texts = texts
		return tasks.Embedding{Texts: texts}
	case n < 65:
		return tasks.Translation{Text: "good morning " + o.Mark, TargetLang: "es"}
	case n < 85:
		return tasks.Text{Prompt: "say " + o.Mark}
	case n < 94:
		prompt := "a mill " + o.Mark
		if o.Bad = p.rng.IntN(10) == 0; o.Bad {
			prompt += " nsfw"
		}
		return tasks.Image{Prompt: prompt}
	}
	return tasks.Transcription{Audio: tasks.Audio{Key: p.audio[p.rng.IntN(len(p.audio))]}, InitialPrompt: o.Mark}
}

// malformed marks a complete but unusable answer for the witness.
const malformed = "X-Malformed"

// arm makes the provider fail the first calls of a task.
func (p *producer) arm(o *order) {
	f := workersaitest.Fault{Contains: o.Mark, From: 1, To: 1 + p.rng.IntN(2)}
	what := ""
	switch p.rng.IntN(10) {
	case 0:
		what, f.Code, f.Header = "429", 3021, http.Header{"Retry-After": {"1"}}
	case 1:
		what, f.Code, f.To = "3040", 3040, 1
	case 2:
		what, f.Status, f.Body = "5xx", 502, "<html>bad gateway</html>"
	case 3:
		what, f.Cut, f.CutAt = "answer cut", true, p.rng.IntN(600)
	case 4:
		what, f.DropAnswer = "answer dropped", true
	case 5:
		what, f.Delay, f.DropAnswer, f.To = "hang", time.Duration(10+p.rng.IntN(15))*time.Second, true, 1
	case 6:
		what, f.Status, f.Header = "malformed", 200, http.Header{"Content-Type": {"application/json"}, malformed: {"1"}}
		f.Body = []string{`{"success":true,"result":null}`, `{"success":true,"result":{"resp`, `<html>`, `{"success":false,"errors":[]}`}[p.rng.IntN(4)]
	case 7:
		if o.Kind == tasks.KindEmbedding || o.Kind == tasks.KindImage {
			return // a long answer sent byte by byte would outlast the run
		}
		what, f.Trickle, f.To = "trickle", time.Millisecond, 1
	case 8:
		what, f.Reset = "reset", true
	case 9:
		what, f.Delay = "slow", time.Duration(1+p.rng.IntN(8))*time.Second
	}
	p.emulator.Fault(f)
	p.j.fault("provider "+what, o.Mark)
}

// shortWAV returns the beginning of the emulator's recording, in quarters of a second.
func shortWAV(quarters int) []byte {
	const header, quarter = 44, 8000
	b := bytes.Clone(workersaitest.SampleWAV()[:header+quarters*quarter])
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	binary.LittleEndian.PutUint32(b[40:], uint32(len(b)-header))
	return b
}
