package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lab is the environment of the measurements: a folder of its own and the built program.
type lab struct {
	ctx          context.Context
	quick        bool
	dir          string // removed at the end
	binary       string // neuronmill
	self         string // this program, which also runs the rivals
	bullmq       string // folder with the installed Node program
	redisVersion string

	bullOnce sync.Once
	bullErr  error
}

func newLab(ctx context.Context, quick bool) (*lab, error) {
	dir, err := os.MkdirTemp("", "neuronmill-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{ctx: ctx, quick: quick, dir: dir, binary: filepath.Join(dir, "neuronmill")}
	if err := l.prepare(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) prepare() error {
	var err error
	if l.self, err = os.Executable(); err != nil {
		return err
	}
	version, err := l.output("", "redis-server", "--version")
	if err != nil {
		return fmt.Errorf("redis-server is needed on PATH (apt-get install redis-server): %w", err)
	}
	l.redisVersion, _, _ = strings.Cut(strings.Replace(version, "Redis server v=", "Redis ", 1), " sha=")
	if _, err := l.output("..", "go", "build", "-o", l.binary, "./cmd/neuronmill"); err != nil {
		return fmt.Errorf("build neuronmill: %w", err)
	}
	return nil
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

// say prints progress to stderr, apart from the figures.
func (l *lab) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// output runs a program to its end and returns its output.
func (l *lab) output(dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(l.ctx, program, args...)
	cmd.Dir = dir
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, errors.String())
	}
	return string(out), nil
}

// sleep waits unless the measurement is cancelled.
func (l *lab) sleep(d time.Duration) error {
	select {
	case <-l.ctx.Done():
		return l.ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// until polls a condition every few milliseconds.
func (l *lab) until(what string, most time.Duration, come func() (bool, error)) error {
	for end := time.Now().Add(most); time.Now().Before(end); {
		ok, err := come()
		if ok || err != nil {
			return err
		}
		if err := l.sleep(20 * time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s did not come about in %s", what, most)
}

// process is a program that runs until it is stopped.
type process struct {
	cmd  *exec.Cmd
	log  string // file with its output
	done chan struct{}
}

func start(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches this program alone, which ends them in order
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", cmd.Path, err), out.Close())
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // cmd.ProcessState says how it ended
		_ = out.Close()
		close(p.done)
	}()
	return p, nil
}

// stopAll stops all processes at the same time, at first with a signal that lets them
// finish.
func stopAll(processes []*process) {
	for _, p := range processes {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	late := time.After(15 * time.Second)
	for _, p := range processes {
		select {
		case <-p.done:
		case <-late:
			_ = p.cmd.Process.Kill()
			<-p.done
			late = time.After(0) // the other processes have had their time too
		}
	}
}

// cpu returns the CPU time of a stopped process.
func (p *process) cpu() time.Duration {
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// ended returns an error when a process that should run has ended.
func (p *process) ended() error {
	select {
	case <-p.done:
		text, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended by itself (%s): %s", filepath.Base(p.cmd.Path), p.cmd.ProcessState, text[max(0, len(text)-2000):])
	default:
		return nil
	}
}
