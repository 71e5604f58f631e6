package redistest

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2/server"
)

// Commands returns how many commands the server has executed.
func (s *Server) Commands() int { return s.mini.CommandCount() }

// CountAbout counts the commands with a text in their arguments, by name. Commands within
// scripts count too, and so does the EVALSHA around them. stop ends the count.
func (s *Server) CountAbout(text string) (stop func() map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.about, s.counts = text, map[string]int{}
	return func() map[string]int {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.about = ""
		return s.counts
	}
}

// Refuse makes commands fail with this error ("LOADING ...", "OOM ..."); "" ends that.
// Handshakes and subscriptions are answered, as a real Redis does while it loads.
func (s *Server) Refuse(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = message
}

// refuse counts for CountAbout, and answers commands with the error set by Refuse.
func (s *Server) refuse(c *server.Peer, cmd string, args ...string) bool {
	s.mu.Lock()
	if s.about != "" && slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, s.about) }) {
		s.counts[cmd]++
	}
	refusal := s.refusal
	s.mu.Unlock()
	switch cmd {
	case "HELLO", "SUBSCRIBE", "UNSUBSCRIBE", "SCRIPT": // Restore needs the last one
		return false
	}
	if refusal == "" {
		return false
	}
	c.WriteError(refusal)
	return true
}

// Wipe deletes everything, scripts included, as a restart of Redis without a file does.
func (s *Server) Wipe() { s.Restore(Snapshot{}) }

// Flush deletes all keys, as FLUSHALL does: connections, scripts and the replication ID stay.
func (s *Server) Flush() { s.mini.FlushAll() }

// Snapshot is the content of Redis at a moment.
type Snapshot struct {
	at      time.Time
	strings map[string]string
	lists   map[string][]string
	sets    map[string][]string
	hashes  map[string]map[string]string
	sorted  map[string]map[string]float64
	ttl     map[string]time.Duration
}

// Snapshot copies the content. No other goroutine may use the server meanwhile.
func (s *Server) Snapshot() Snapshot {
	db := s.mini.DB(0)
	c := Snapshot{
		at: time.Now(), strings: map[string]string{}, lists: map[string][]string{}, sets: map[string][]string{},
		hashes: map[string]map[string]string{}, sorted: map[string]map[string]float64{}, ttl: map[string]time.Duration{},
	}
	for _, key := range s.mini.Keys() {
		switch db.Type(key) {
		case "string":
			c.strings[key], _ = db.Get(key)
		case "list":
			all, _ := db.List(key)
			c.lists[key] = slices.Clone(all)
		case "set":
			c.sets[key], _ = db.Members(key)
		case "zset":
			all, _ := db.SortedSet(key)
			c.sorted[key] = maps.Clone(all)
		case "hash":
			fields, _ := db.HKeys(key)
			c.hashes[key] = map[string]string{}
			for _, f := range fields {
				c.hashes[key][f] = db.HGet(key, f)
			}
		default:
			s.t.Fatalf("a snapshot cannot hold %s, a %s", key, db.Type(key))
		}
		c.ttl[key] = db.TTL(key)
	}
	return c
}

// Restore sets the content back to a snapshot. It removes the scripts and sets a new
// replication ID. No other goroutine may use the server meanwhile.
func (s *Server) Restore(c Snapshot) {
	s.mu.Lock()
	s.life++
	s.mini.SetReplicationID(replicationID(s.life))
	s.mu.Unlock()
	s.mini.FlushAll()
	client := s.Client(nil)
	if err := client.ScriptFlush(s.t.Context()).Err(); err != nil {
		s.t.Fatal(err)
	}
	db := s.mini.DB(0)
	for key, v := range c.strings {
		_ = db.Set(key, v)
	}
	for key, all := range c.lists {
		_, _ = db.Push(key, all...)
	}
	for key, all := range c.sets {
		_, _ = db.SetAdd(key, all...)
	}
	for key, all := range c.sorted {
		for member, score := range all {
			_, _ = db.ZAdd(key, score, member)
		}
	}
	for key, fields := range c.hashes {
		for f, v := range fields {
			db.HSet(key, f, v)
		}
	}
	// Keys that would have expired since the snapshot expire at once.
	for key, ttl := range c.ttl {
		if ttl > 0 {
			db.SetTTL(key, max(ttl-time.Since(c.at), time.Millisecond))
		}
	}
}
