package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// The memory of JSON bodies. A body that is read, decoded and accepted takes up to
// parsingFactor times its bytes for a moment; one whose request then waits for its task
// takes waitingFactor times them. Together the bodies of a server take at most
// bodyMemory bytes. The garbage collector may let the process use about twice that.
const (
	bodyMemory    = 256 << 20
	parsingFactor = 8
	waitingFactor = 2
	leastBody     = 4 << 10         // bytes that any body counts for
	bodyPatience  = 5 * time.Second // most time that a body waits for its memory, before it is read
)

// memory bounds the total of the JSON bodies of a server.
type memory struct {
	total    int64
	free     *semaphore.Weighted
	patience time.Duration
}

func newMemory(total int64) *memory {
	return &memory{total: total, free: semaphore.NewWeighted(total), patience: bodyPatience}
}

// reserve waits for the memory of a request's body of at most so many bytes, in the order of
// the requests. The context that it returns belongs to the handler; release frees the memory.
func (m *memory) reserve(req *http.Request, most int64) (ctx context.Context, release func(), problem *Problem) {
	ctx = req.Context()
	if req.ContentLength == 0 || req.Body == nil || req.Body == http.NoBody {
		return ctx, func() {}, nil
	}
	size := most
	if req.ContentLength > 0 {
		size = min(req.ContentLength, most)
	}
	size = max(size, leastBody)
	r := &reservation{from: m, size: size, held: min(size*parsingFactor, m.total)}
	waiting, cancel := context.WithTimeout(ctx, m.patience)
	defer cancel()
	if m.free.Acquire(waiting, r.held) != nil {
		return ctx, nil, newProblem(codeBusy, "").retryAfter(time.Second)
	}
	return context.WithValue(ctx, reservationKey{}, r), r.release, nil
}

// reservation is the memory of one body.
type reservation struct {
	from *memory
	size int64

	mu   sync.Mutex
	held int64
}

type reservationKey struct{}

// parsed frees most of the memory of the body of a request whose task was accepted, before
// the request waits.
func parsed(ctx context.Context) {
	if r, ok := ctx.Value(reservationKey{}).(*reservation); ok {
		r.keep(r.size * waitingFactor)
	}
}

func (r *reservation) release() { r.keep(0) }

// keep frees all but some bytes.
func (r *reservation) keep(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if bytes < r.held {
		r.from.free.Release(r.held - bytes)
		r.held = bytes
	}
}
