package main

import (
	"bytes"
	"sync"
)

// safeBuffer is a buffer that several goroutines write to, as the commands do to a file:
// the progress line and messages come from different ones.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *safeBuffer) Bytes() []byte { return []byte(b.String()) }
func (b *safeBuffer) Len() int      { return len(b.String()) }
