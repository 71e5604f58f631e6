// Package embedded runs the Redis of a data folder: one server for all commands that use
// the folder at the same time. It ends with the last of them.
//
// # Processes
//
// The first command starts a supervisor: the same program with other arguments, in a
// session of its own. The supervisor locks the folder and runs the server: a redis-server
// or valkey-server from PATH with its data in the folder, else a Redis in its own memory.
//
// Each command keeps one connection to the supervisor open while it uses the server. The
// kernel closes that connection however the command ends, even after a SIGKILL. When the
// last connection closes, the supervisor stops the server.
//
// # Files in the folder
//
//   - lock: locked with flock(2) by the supervisor and by the redis-server, which inherits
//     the lock. It contains the ids of both. No second server starts while either lives.
//   - supervisor.sock: the supervisor listens here for commands.
//   - redis.sock: the server listens here.
//   - redis.log, appendonlydir: written by the server.
//
// When the folder's path is too long for a socket, or its file system has no sockets, both
// sockets are in a folder below the system's temporary folder.
package embedded

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// The limits of each wait.
const (
	joinLimit  = 60 * time.Second // until the server answers, after it has read its data
	patience   = 2 * time.Second  // until a wait is logged
	stopLimit  = 10 * time.Second // until a server that does not stop is killed
	leaveLimit = stopLimit + 5*time.Second
	retryPause = 20 * time.Millisecond
)

// Session is the use of a folder's server by this process.
type Session struct {
	Client      *redis.Client
	Description string // for people
	// Empty reports that the server has just started and has no data on disk, and that no
	// command used its predecessor when that ended. Only the first session of such a server
	// has it set, and may restore the data of earlier commands from elsewhere.
	Empty bool
	// Memory reports that the server keeps its data in memory alone: they are lost when its
	// last session ends.
	Memory bool

	dir  string
	log  *slog.Logger
	addr atomic.Value // string: the socket of the server

	stop context.CancelFunc
	done chan struct{} // closed when watch has returned

	mu      sync.Mutex
	conn    net.Conn // to the supervisor
	leaving bool
}

// Join joins the server of a folder and starts one if none runs. Close leaves it.
func Join(ctx context.Context, dataDir string, log *slog.Logger) (*Session, error) {
	dir, err := filepath.Abs(filepath.Join(dataDir, "redis"))
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	conn, welcome, err := join(ctx, dir, log)
	if err != nil {
		return nil, fmt.Errorf("embedded redis of %s: %w", dataDir, err)
	}
	s := &Session{Description: welcome.Description, Empty: welcome.Empty, Memory: welcome.Memory, dir: dir, log: log, conn: conn, done: make(chan struct{})}
	s.addr.Store(welcome.Socket)
	s.Client = redis.NewClient(&redis.Options{
		Network: "unix", Addr: welcome.Socket, MaxRetries: 5,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.addr.Load().(string))
		},
		Protocol: welcome.Protocol, DisableIdentity: true,
	})
	var watchCtx context.Context
	watchCtx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	go s.watch(watchCtx, conn)
	return s, nil
}

// Close leaves the server. The last session waits until the server has stopped.
func (s *Session) Close() error {
	s.mu.Lock()
	s.leaving = true
	conn := s.conn
	s.mu.Unlock()
	s.stop()
	_ = s.Client.Close() // it may be closed already
	if conn != nil {
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(leaveLimit))
		if half, ok := conn.(*net.UnixConn); ok {
			_ = half.CloseWrite() // the supervisor closes its half once the server has stopped or has other users
		}
	}
	<-s.done
	return nil
}

// watch joins again when the supervisor ends before this process leaves, for example
// because the supervisor or the server was killed.
func (s *Session) watch(ctx context.Context, conn net.Conn) {
	defer close(s.done)
	joined := time.Now()
	for {
		_, err := io.Copy(io.Discard, conn) // the supervisor sends nothing more
		s.mu.Lock()
		leaving := s.leaving
		s.conn = nil
		s.mu.Unlock()
		if leaving {
			if err != nil {
				s.log.Warn("the embedded redis has not stopped yet", "folder", s.dir, "waited", leaveLimit)
			}
			return
		}
		conn.Close()
		s.log.Warn("the embedded redis has ended; starting it again", "folder", s.dir)
		if time.Since(joined) < time.Second { // it ends right after each start
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
		joined = time.Now()
		if conn = s.rejoin(ctx); conn == nil {
			return
		}
	}
}

// rejoin retries until it succeeds. It returns nil when the process leaves first.
func (s *Session) rejoin(ctx context.Context) net.Conn {
	for {
		conn, welcome, err := join(ctx, s.dir, s.log)
		if err == nil {
			s.mu.Lock()
			if s.leaving {
				s.mu.Unlock()
				conn.Close()
				return nil
			}
			s.conn = conn
			s.mu.Unlock()
			s.addr.Store(welcome.Socket)
			return conn
		}
		if ctx.Err() == nil {
			s.log.Error("the embedded redis does not start; trying again", "folder", s.dir, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
