// Package memredis is a Redis in this process's memory: miniredis with a replication ID
// and with connections that buffer writes. It serves the embedded queue on a machine
// without a redis-server, and the tests through package redistest.
package memredis

import (
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/neuronmill/neuronmill/internal/replid"
)

// Server is an in-memory Redis.
type Server struct {
	*miniredis.Miniredis

	mu            sync.Mutex
	replicationID string
	hook          Hook
}

// Hook runs before each command. It returns true when it has answered the command itself.
type Hook = server.Hook

// New creates an empty server. Content that does not continue earlier content needs a new
// replication ID.
func New(replicationID string) *Server {
	return &Server{Miniredis: miniredis.NewMiniRedis(), replicationID: replicationID}
}

// SetReplicationID declares that the content was replaced.
func (s *Server) SetReplicationID(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicationID = id
}

// SetHook sets the Hook that runs before each command; nil removes it.
func (s *Server) SetHook(h Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

// Dial opens a connection without a socket, so that it works inside a synctest bubble.
func (s *Server) Dial() (net.Conn, error) {
	conn, err := s.Miniredis.Dial() // the first connection starts the server
	if err != nil {
		return nil, err
	}
	s.Server().SetPreHook(s.before)
	return newBuffered(conn), nil
}

// Serve serves the connections of a listener until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	first, err := s.Dial() // starts the server
	if err != nil {
		return err
	}
	first.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		s.Server().ServeConn(newBuffered(conn))
	}
}

// before answers the commands that miniredis lacks: those for the replication ID.
func (s *Server) before(c *server.Peer, cmd string, args ...string) bool {
	s.mu.Lock()
	hook, id := s.hook, s.replicationID
	s.mu.Unlock()
	if hook != nil && hook(c, cmd, args...) {
		return true
	}
	if cmd == "INFO" && slices.Equal(args, []string{replid.Section}) {
		c.WriteBulk(fmt.Sprintf("# Replication\r\nrole:master\r\nmaster_replid:%s\r\n", id))
		return true
	}
	return false
}
