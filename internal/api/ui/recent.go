package ui

import (
	"cmp"
	"strings"
	"sync"
	"time"
)

// recent keeps what pages have read for some seconds, so that all who look at a page share one
// reading.
type recent[T any] struct {
	most int // values that are kept; 0 means mostReadings

	mu    sync.Mutex
	known map[string]*reading[T]
}

// reading is a value and when it was read. Its mutex is held while it is being read.
type reading[T any] struct {
	mu    sync.Mutex
	at    time.Time
	value T
}

// mostReadings bounds the values that are kept by default.
const mostReadings = 1000

// get returns the value of a tenant and a page, read at most so long ago.
func (c *recent[T]) get(tenant, page string, lasts time.Duration, read func() (T, error)) (T, error) {
	r := c.of(tenant + "\x00" + page)
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < lasts {
		return r.value, nil
	}
	value, err := read()
	if err == nil {
		r.value, r.at = value, time.Now()
	}
	return value, err
}

func (c *recent[T]) of(name string) *reading[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.known[name]
	if r == nil {
		if c.known == nil || len(c.known) >= cmp.Or(c.most, mostReadings) {
			c.known = map[string]*reading[T]{}
		}
		r = &reading[T]{}
		c.known[name] = r
	}
	return r
}

// forget makes the next page of a tenant read again.
func (c *recent[T]) forget(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.known {
		if strings.HasPrefix(name, tenant+"\x00") {
			delete(c.known, name)
		}
	}
}
