package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// journal is the record of a run: each fault and its time, as one JSON object per line,
// and the number of faults of each sort.
type journal struct {
	mu     sync.Mutex
	dir    string
	file   *os.File
	counts map[string]int
	spans  []span
}

// span is a fault that lasts. It concerns one slot, or all when Slot is -1.
type span struct {
	What     string
	Slot     int
	From, To time.Time // To is zero while the fault lasts
}

func openJournal(dir string) (*journal, error) {
	file, err := os.Create(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	return &journal{dir: dir, file: file, counts: map[string]int{}}, nil
}

// fault records and counts an instantaneous fault.
func (j *journal) fault(what, detail string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[what]++
	j.line(what, detail)
}

// begin records and counts a fault that lasts until the returned func is called.
func (j *journal) begin(what string, slot int, detail string) (end func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[what]++
	j.line(what, fmt.Sprintf("slot %d %s", slot, detail))
	i := len(j.spans)
	j.spans = append(j.spans, span{What: what, Slot: slot, From: time.Now()})
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.spans[i].To = time.Now()
		j.line(what+" ends", fmt.Sprintf("slot %d", slot))
	}
}

// kills returns how many workers have been killed so far.
func (j *journal) kills() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for what, count := range j.counts {
		if strings.HasPrefix(what, "kill ") {
			n += count
		}
	}
	return n
}

func (j *journal) line(what, detail string) {
	// A full disk must not stop the run; the counts are in memory.
	_ = json.NewEncoder(j.file).Encode(map[string]string{"at": time.Now().Format(time.RFC3339Nano), "what": what, "detail": detail})
}

// note records an event that is not a fault.
func (j *journal) note(what, detail string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.line(what, detail)
}

// met reports whether a fault of this sort and slot overlapped a period, extended by
// margin on both sides.
func (j *journal) met(what string, slot int, from, to time.Time, margin time.Duration) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.spans {
		if s.What == what && (s.Slot < 0 || s.Slot == slot) && s.From.Before(to.Add(margin)) && (s.To.IsZero() || s.To.Add(margin).After(from)) {
			return true
		}
	}
	return false
}

// on returns the faults of an edge of a slot, of any sort.
func (j *journal) on(edge string, slot int) []span {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []span
	for _, s := range j.spans {
		if strings.HasPrefix(s.What, edge+" ") && s.Slot == slot {
			found = append(found, s)
		}
	}
	return found
}

// dump writes values to a file of the evidence folder, one per line.
func dump[T any](j *journal, name string, values []T) error {
	file, err := os.Create(filepath.Join(j.dir, name))
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(file)
	for _, v := range values {
		if err := encoder.Encode(v); err != nil {
			file.Close()
			return err
		}
	}
	return file.Close()
}
