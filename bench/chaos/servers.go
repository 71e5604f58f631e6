package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/neuronmill/neuronmill/internal/freeport"
	"github.com/redis/go-redis/v9"
)

// process is a server started by this program. Its output goes to the evidence folder.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func start(log string, env []string, program string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own copy
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	// Signals of the terminal go to this program alone, which then stops its processes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // cmd.ProcessState says how it ended
		close(p.done)
	}()
	return p, nil
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// kill sends SIGKILL, as a machine failure would end it.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// ended waits for the end of the process for the given time; 0 returns at once.
func (p *process) ended(within time.Duration) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		return false
	}
}

// redisServer is a redis-server with an append-only file. It can be killed, restarted and
// made to lose data.
type redisServer struct {
	addr, dir, log string
	*process
}

func startRedis(evidence string) (*redisServer, error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	r := &redisServer{addr: "127.0.0.1:" + port, dir: filepath.Join(evidence, "redis"), log: filepath.Join(evidence, "redis.log")}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	return r, r.start()
}

func (r *redisServer) start() (err error) {
	_, port, _ := net.SplitHostPort(r.addr)
	r.process, err = start(r.log, nil, "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", r.dir,
		"--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction")
	if err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: r.addr, MaxRetries: -1})
	defer client.Close()
	for range 600 {
		if client.Ping(context.Background()).Err() == nil {
			return nil
		}
		if r.ended(50 * time.Millisecond) {
			return fmt.Errorf("redis-server ended: %s; see %s", r.cmd.ProcessState, r.log)
		}
	}
	return errors.New("redis-server does not answer; see " + r.log)
}

// cut removes the last bytes of the append-only file, as a power failure does. It returns
// how many.
func (r *redisServer) cut(most func(int64) int64) (int64, error) {
	files, err := filepath.Glob(filepath.Join(r.dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("find the append-only file: %w", err)
	}
	file := files[len(files)-1]
	info, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	n := most(info.Size())
	return n, os.Truncate(file, info.Size()-n)
}

// forget removes the data of Redis.
func (r *redisServer) forget() error { return os.RemoveAll(filepath.Join(r.dir, "appendonlydir")) }

// The credentials of the S3 server.
const (
	bucket    = "results"
	accessKey = "chaos"
	secretKey = "chaos-secret"
)

func startS3(evidence string) (addr string, p *process, err error) {
	port, err := freeport.Find()
	if err != nil {
		return "", nil, err
	}
	addr = "127.0.0.1:" + port
	data, side := filepath.Join(evidence, "s3", "data"), filepath.Join(evidence, "s3", "side")
	if err := errors.Join(os.MkdirAll(filepath.Join(data, bucket), 0o700), os.MkdirAll(side, 0o700)); err != nil {
		return "", nil, err
	}
	p, err = start(filepath.Join(evidence, "s3.log"), nil, "versitygw", "--port", addr, "--access", accessKey, "--secret", secretKey,
		"--quiet", "posix", "--sidecar", side, data)
	if err != nil {
		return "", nil, fmt.Errorf("%w (go build -C tools/versitygw -o DIR/versitygw github.com/versity/versitygw/cmd/versitygw, with DIR on PATH)", err)
	}
	for range 600 {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			return addr, p, nil
		}
		if p.ended(50 * time.Millisecond) {
			break
		}
	}
	return "", nil, errors.New("the S3 server does not listen; see s3.log")
}
