package embedded

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// joinRequest is the first line that a command sends.
const joinRequest = "join\n"

// supervisorArg is the argument that makes this program a supervisor.
const supervisorArg = "embedded-redis"

// canSupervise reports that this program called Main, so it can start as a supervisor.
var canSupervise bool

// Main runs the supervisor and does not return if this process was started as one. A
// program that uses Join calls Main first in main, before it starts anything else.
func Main() {
	canSupervise = true
	if len(os.Args) != 3 || os.Args[1] != supervisorArg {
		return
	}
	// On Linux the server ends with the thread that started it (see childAttr).
	runtime.LockOSThread()
	if err := supervise(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// supervise serves the commands of a folder. It returns after the last one has left and
// the server has stopped, or at once if another supervisor serves the folder.
func supervise(dir string) error {
	// The supervisor ends with its last command, not by a signal. A service manager may
	// signal all processes at once, while commands still need the queue to finish their
	// calls. The signals are received and dropped: the server would inherit ignored ones.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGPIPE)

	ctx := context.Background() // only the last command ends the supervisor
	lock, err := acquire(ctx, dir)
	if err != nil || lock == nil {
		return err
	}
	defer lock.Close()
	killed := holders(lock) != "" // the previous supervisor did not end by itself
	sockets, listener, err := listen(ctx, dir)
	if err != nil {
		return err
	}
	defer sockets.remove()
	s := &supervisor{listener: listener, ready: make(chan struct{}), idle: make(chan struct{}), conns: map[net.Conn]bool{}}
	go s.accept()
	defer listener.Close()

	server, err := startServer(ctx, dir, sockets, lock)
	if err != nil {
		s.welcome = welcome{Error: err.Error()}
		s.first = s.welcome
		close(s.ready)
		s.refuse()
		return err
	}
	s.welcome = welcome{PID: os.Getpid(), Socket: sockets.redis(), Description: server.description, Protocol: server.protocol, Memory: server.empty}
	s.first = s.welcome
	s.first.Empty = server.empty && !killed
	close(s.ready)

	go func() { // stdin ends with the command that started this process, which may die before it joins
		_, _ = io.Copy(io.Discard, os.Stdin)
		s.endIfIdle()
	}()
	select {
	case <-server.exited: // the commands notice it and start another supervisor
		return errors.New("the server has ended by itself")
	case <-s.idle:
		err := server.stop()
		record(lock)
		return err
	}
}

// supervisor counts the commands that use the server.
type supervisor struct {
	listener net.Listener
	ready    chan struct{} // closed when welcome and first are set
	welcome  welcome       // for all but the first command
	first    welcome       // for the first command
	idle     chan struct{} // closed when the last command has left

	attending sync.WaitGroup // for each of conns

	mu     sync.Mutex
	conns  map[net.Conn]bool // of the commands that use the server
	ending bool
}

// accept serves connections until the listener is closed.
func (s *supervisor) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		go s.attend(conn)
	}
}

// attend counts a command until it leaves or dies. A connection without joinRequest only
// checks whether a supervisor listens.
func (s *supervisor) attend(conn net.Conn) {
	request := make([]byte, len(joinRequest))
	if _, err := io.ReadFull(conn, request); err != nil || string(request) != joinRequest || !s.enter(conn) {
		conn.Close()
		return
	}
	defer s.attending.Done()

	<-s.ready
	line, err := json.Marshal(s.greeting())
	if err == nil {
		_, err = conn.Write(append(line, '\n'))
	}
	if err == nil && s.welcome.Error == "" {
		_, _ = io.Copy(io.Discard, conn)
	}

	s.mu.Lock()
	delete(s.conns, conn)
	last := len(s.conns) == 0 && s.welcome.Error == ""
	s.mu.Unlock()
	if last {
		s.endIfIdle()
		return // this process ends after the server has stopped, which closes the connection
	}
	conn.Close()
}

// greeting returns the welcome of the next command.
func (s *supervisor) greeting() welcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.first
	s.first = s.welcome
	return next
}

// enter counts a command and returns true, or false if the supervisor is ending.
func (s *supervisor) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.conns[conn] = true
	s.attending.Add(1)
	return true
}

// refuse waits until all waiting commands have received the error of the server's start.
func (s *supervisor) refuse() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.attending.Wait()
}

// endIfIdle ends the supervisor if no command uses it.
func (s *supervisor) endIfIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) > 0 || s.ending {
		return
	}
	s.ending = true
	s.listener.Close() // removes its socket
	close(s.idle)
}

// listen opens the supervisor's socket in the first folder that supports sockets.
func listen(ctx context.Context, dir string) (socketDir, net.Listener, error) {
	var errs []error
	for _, sockets := range socketDirs(dir) {
		err := os.MkdirAll(sockets.path, 0o700)
		if err == nil {
			err = sockets.check()
		}
		if err == nil {
			_ = os.Remove(sockets.supervisor()) // left by a killed supervisor: this process has the lock
			var l net.Listener
			if l, err = new(net.ListenConfig).Listen(ctx, "unix", sockets.supervisor()); err == nil {
				return sockets, l, nil
			}
		}
		errs = append(errs, err)
	}
	return socketDir{}, nil, fmt.Errorf("no folder for the sockets of the embedded redis: %w", errors.Join(errs...))
}

// acquire locks the folder. It returns nil if another supervisor has the lock and serves
// the folder. It stops a server whose supervisor was killed, since that server keeps the
// lock and would not end by itself.
func acquire(ctx context.Context, dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	begin := time.Now()
	for stopped := false; ; time.Sleep(retryPause) {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			lock.Close()
			return nil, fmt.Errorf("lock the data folder %s: %w (the file system must know flock)", dir, err)
		}
		if supervised(ctx, dir) {
			lock.Close()
			return nil, nil
		}
		waited := time.Since(begin)
		if waited > patience && !stopped {
			stopped = true
			shutdown(ctx, dir)
		}
		if waited > leaveLimit {
			defer lock.Close()
			return nil, fmt.Errorf("%s is locked by a process that serves no commands (%s): end it, or set NEURONMILL_DATA_DIR to another folder",
				lock.Name(), cmp.Or(holders(lock), "of another program"))
		}
	}
}

// supervised reports whether a supervisor listens for the folder.
func supervised(ctx context.Context, dir string) bool {
	for _, sockets := range socketDirs(dir) {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", sockets.supervisor()); err == nil {
			conn.Close()
			return true
		}
	}
	return false
}

// record writes the ids of the processes that hold the lock into the lock file.
func record(lock *os.File, pids ...int) {
	if lock.Truncate(0) == nil {
		_, _ = lock.WriteAt([]byte(strings.Trim(fmt.Sprint(pids), "[]")), 0)
	}
}

// holders reads the ids that record wrote, separated by spaces.
func holders(lock *os.File) string {
	text := make([]byte, 64)
	n, _ := lock.ReadAt(text, 0)
	return strings.TrimSpace(string(text[:n]))
}
