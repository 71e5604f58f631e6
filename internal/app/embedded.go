package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// openEmbedded starts a Redis of our own: a server found on PATH, with its data in the
// data folder, else one in this process. A second process with the same folder joins
// the first one's server.
func openEmbedded(ctx context.Context, dataDir string, log *slog.Logger) (*Redis, error) {
	dir, err := filepath.Abs(filepath.Join(dataDir, "redis"))
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		program, err := exec.LookPath(name)
		if err == nil {
			return openChild(ctx, program, dir, log)
		}
	}
	return openInProcess(log)
}

// openInProcess is a Redis in memory. Its keys do not expire by themselves.
func openInProcess(log *slog.Logger) (*Redis, error) {
	server := miniredis.NewMiniRedis()
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				server.FastForward(time.Second)
			}
		}
	}()
	client := redis.NewClient(&redis.Options{
		Addr:     "127.0.0.1:6379", // never dialled
		Dialer:   func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		Protocol: 2, DisableIdentity: true,
	})
	log.Debug("no redis-server or valkey-server on PATH: the queue is in memory, and rebuilt from the bucket at the next start")
	return &Redis{client, "in memory (no redis-server on PATH)", func() error {
		close(done)
		server.Close()
		return nil
	}}, nil
}

// openChild joins the server of this folder, or starts it.
func openChild(ctx context.Context, program, dir string, log *slog.Logger) (*Redis, error) {
	socket := socketPath(dir)
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaxRetries: 5})
	description := filepath.Base(program) + " on " + socket
	if _, err := os.Stat(socket); err == nil && client.Ping(ctx).Err() == nil {
		return &Redis{client, description + ", started by another process", nil}, nil
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700",
		"--dir", dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		"--maxmemory-policy", "noeviction", "--logfile", filepath.Join(dir, "redis.log"), "--daemonize", "no")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us, not for it
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended stands in cmd.ProcessState
		close(exited)
	}()
	stop := func() error { return stopChild(cmd, exited) }
	if err := ready(ctx, client, cmd, exited); err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not start; see %s: %w", program, filepath.Join(dir, "redis.log"), err), stop())
	}
	log.Debug("embedded redis started", "program", program, "socket", socket)
	return &Redis{client, description, stop}, nil
}

// socketPath is in the folder where it fits: names of sockets are short.
func socketPath(dir string) string {
	if path := filepath.Join(dir, "redis.sock"); len(path) < 100 {
		return path
	}
	info, err := os.Stat(dir)
	id := uint64(0)
	if stat, ok := info.Sys().(*syscall.Stat_t); err == nil && ok {
		id = stat.Ino
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("neuronmill-%d-%d.sock", os.Getuid(), id))
}

func ready(ctx context.Context, client *redis.Client, cmd *exec.Cmd, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		// Knocking first: the client would try and complain at length.
		knock, err := new(net.Dialer).DialContext(ctx, "unix", client.Options().Addr)
		if err == nil {
			knock.Close()
			if err = client.Ping(ctx).Err(); err == nil {
				return nil
			}
		}
		select {
		case <-exited:
			return fmt.Errorf("it ended: %s", cmd.ProcessState)
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func stopChild(cmd *exec.Cmd, exited <-chan struct{}) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
		return nil
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-exited
		return errors.New("the embedded redis had to be killed")
	}
}
