package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/neuronmill/neuronmill/internal/memredis"
	"github.com/redis/go-redis/v9"
)

// server is a running Redis.
type server struct {
	description string
	protocol    int
	empty       bool            // it has no data on disk
	exited      <-chan struct{} // closed when the server has ended
	stop        func() error
}

// startServer runs a redis-server or valkey-server from PATH, else a Redis in memory.
func startServer(ctx context.Context, dir string, sockets socketDir, lock *os.File) (*server, error) {
	if answers(ctx, sockets.redis()) {
		return nil, fmt.Errorf("a redis answers on %s, which an older neuronmill has started: end that first", sockets.redis())
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if program, err := exec.LookPath(name); err == nil {
			return startChild(ctx, program, dir, sockets, lock)
		}
	}
	record(lock, os.Getpid())
	return serveMemory(ctx, sockets)
}

// serveMemory serves a Redis in this process's memory.
func serveMemory(ctx context.Context, sockets socketDir) (*server, error) {
	_ = os.Remove(sockets.redis())
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", sockets.redis())
	if err != nil {
		return nil, err
	}
	memory := memredis.New(strings.ToLower(rand.Text()))
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = memory.Serve(listener) // until the listener is closed
	}()
	go func() { // its own clock would check every key before every command
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-exited:
				return
			case <-tick.C:
				memory.FastForward(time.Second)
			}
		}
	}()
	return &server{
		description: "in memory on " + sockets.redis() + " (no redis-server on PATH)", protocol: 2, empty: true,
		exited: exited, stop: listener.Close,
	}, nil
}

// startChild runs a server with its data in the folder, and waits until it answers.
func startChild(ctx context.Context, program, dir string, sockets socketDir, lock *os.File) (*server, error) {
	logFile := filepath.Join(dir, "redis.log")
	cmd := exec.CommandContext(ctx, program, "--port", "0", "--unixsocket", sockets.redis(), "--unixsocketperm", "700",
		"--dir", dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		"--maxmemory-policy", "noeviction", "--logfile", logFile, "--daemonize", "no")
	cmd.ExtraFiles = []*os.File{lock} // the server keeps the lock while it lives, also without its supervisor
	cmd.SysProcAttr = childAttr()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	record(lock, os.Getpid(), cmd.Process.Pid)
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the outcome is in cmd.ProcessState
		close(exited)
	}()
	stop := func() error { return stopChild(cmd, exited) }
	if err := waitReady(ctx, sockets.redis(), cmd, exited); err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not start; see %s: %w", program, logFile, err), stop())
	}
	return &server{description: filepath.Base(program) + " on " + sockets.redis(), protocol: 3, exited: exited, stop: stop}, nil
}

// waitReady waits until a server answers. It has no time limit, since a server may read a
// large file first; the commands that wait have joinLimit.
func waitReady(ctx context.Context, socket string, cmd *exec.Cmd, exited <-chan struct{}) error {
	for !answers(ctx, socket) {
		select {
		case <-exited:
			return fmt.Errorf("it ended: %s", cmd.ProcessState)
		case <-time.After(retryPause):
		}
	}
	return nil
}

// answers reports whether a Redis answers on a socket, and has read its data.
func answers(ctx context.Context, socket string) bool {
	// Dial first, because the client would retry and log each attempt.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaxRetries: -1, Protocol: 2, DisableIdentity: true})
	defer client.Close()
	return client.Ping(ctx).Err() == nil
}

// stopChild stops a server and waits until it has ended.
func stopChild(cmd *exec.Cmd, exited <-chan struct{}) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
		return nil
	case <-time.After(stopLimit):
		_ = cmd.Process.Kill()
		<-exited
		return errors.New("the embedded redis had to be killed")
	}
}

// shutdown stops a server whose supervisor was killed.
func shutdown(ctx context.Context, dir string) {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for _, sockets := range socketDirs(dir) {
		if sockets.check() != nil {
			continue
		}
		client := redis.NewClient(&redis.Options{Network: "unix", Addr: sockets.redis(), MaxRetries: -1, Protocol: 2, DisableIdentity: true})
		_ = client.Shutdown(ctx).Err() // a stopping server sends no reply
		client.Close()
	}
}
