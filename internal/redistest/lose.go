package redistest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/neuronmill/neuronmill/internal/replid"
)

// Commands is how many commands the server has run.
func (s *Server) Commands() int { return s.mini.CommandCount() }

// Refuse lets commands fail with this error ("LOADING ...", "OOM ..."); "" ends that.
// Handshakes and subscriptions are answered, as a real one does while it loads.
func (s *Server) Refuse(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = message
}

// answer stands before each command: it refuses, and tells the replication id, which the
// in-memory server does not know.
func (s *Server) answer(c *server.Peer, cmd string, args ...string) bool {
	s.mu.Lock()
	refusal, run := s.refusal, s.life
	s.mu.Unlock()
	switch {
	case cmd == "HELLO" || cmd == "SUBSCRIBE" || cmd == "UNSUBSCRIBE" || cmd == "SCRIPT": // the last one is Restore's own
		return false
	case refusal != "":
		c.WriteError(refusal)
		return true
	case cmd == "INFO" && slices.Equal(args, []string{replid.Section}):
		c.WriteBulk(fmt.Sprintf("# Replication\r\nrole:master\r\nmaster_replid:%012d\r\n", run))
		return true
	}
	return false
}

// Wipe loses everything, scripts included, as a Redis does that starts anew without a
// file.
func (s *Server) Wipe() { s.Restore(Snapshot{}) }

// Snapshot is what Redis held at a moment.
type Snapshot struct {
	at      time.Time
	strings map[string]string
	lists   map[string][]string
	sets    map[string][]string
	hashes  map[string]map[string]string
	sorted  map[string]map[string]float64
	ttl     map[string]time.Duration
}

// Snapshot copies everything. Nothing else may reach the server meanwhile.
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

// Restore sets the memory back to what it was; the scripts are forgotten and the replication
// id is a new one. Nothing else may reach the server meanwhile.
func (s *Server) Restore(c Snapshot) {
	s.mu.Lock()
	s.life++
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
	// Time has gone on: what would have expired meanwhile does so at once.
	for key, ttl := range c.ttl {
		if ttl > 0 {
			db.SetTTL(key, max(ttl-time.Since(c.at), time.Millisecond))
		}
	}
}
