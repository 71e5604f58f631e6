package embedded

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// welcome is the supervisor's reply to each command, one line of JSON, sent when the server
// answers or has failed to start.
type welcome struct {
	Socket      string `json:"socket"`
	Description string `json:"description"`
	Protocol    int    `json:"protocol"`         // the RESP version of the server
	Empty       bool   `json:"empty,omitempty"`  // see Session.Empty
	Memory      bool   `json:"memory,omitempty"` // see Session.Memory
	PID         int    `json:"pid,omitempty"`    // of the supervisor
	Error       string `json:"error,omitempty"`
}

// errGone reports that no supervisor serves the folder.
var errGone = errors.New("no supervisor runs")

// join connects to the folder's supervisor and starts one if none runs.
func join(ctx context.Context, dir string, log *slog.Logger) (net.Conn, welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	slow := time.AfterFunc(patience, func() {
		log.Info("waiting for the embedded redis to start", "folder", dir, "limit", joinLimit)
	})
	defer slow.Stop()

	started := (*starting)(nil)
	for {
		conn, w, err := knock(ctx, dir)
		if err == nil || !errors.Is(err, errGone) {
			if err == nil && started != nil && w.PID != started.cmd.Process.Pid {
				_ = started.cmd.Process.Kill() // it waits for the lock, and would run without a command after the last one has left
			}
			return conn, w, err
		}
		if started == nil {
			if started, err = startSupervisor(ctx, dir); err != nil {
				return nil, welcome{}, err
			}
		}
		select {
		case <-started.exited:
			if started.err != nil {
				return nil, welcome{}, started.err
			}
			started = nil // another command's supervisor serves the folder
		case <-ctx.Done():
			return nil, welcome{}, fmt.Errorf("it has not started in time: %w", ctx.Err())
		case <-time.After(retryPause):
		}
	}
}

// knock connects to a running supervisor and waits until its server answers. Without one
// it returns errGone.
func knock(ctx context.Context, dir string) (net.Conn, welcome, error) {
	var w welcome
	for _, sockets := range socketDirs(dir) {
		if sockets.check() != nil {
			continue
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", sockets.supervisor())
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
		var line []byte
		if _, err = io.WriteString(conn, joinRequest); err == nil {
			line, err = bufio.NewReader(conn).ReadBytes('\n')
		}
		if !stop() {
			conn.Close()
			return nil, w, fmt.Errorf("it has not started in time: %w", ctx.Err())
		}
		if err != nil { // the supervisor is ending
			conn.Close()
			return nil, w, errGone
		}
		if err := json.Unmarshal(line, &w); err != nil {
			conn.Close()
			return nil, w, fmt.Errorf("the supervisor said %q: %w", line, err)
		}
		if w.Error != "" {
			conn.Close()
			return nil, w, errors.New(w.Error)
		}
		return conn, w, nil
	}
	return nil, w, errGone
}

// starting is a supervisor that this process has started.
type starting struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of the failed start; set before exited is closed
}

// supervisorEnv are the environment variables that a supervisor inherits: no secrets.
var supervisorEnv = []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR", "GORACE"}

// startSupervisor starts this program as the supervisor of a folder. The new process
// receives no signals of the terminal and inherits no open files.
func startSupervisor(ctx context.Context, dir string) (*starting, error) {
	if !canSupervise {
		return nil, errors.New("this program does not call embedded.Main, so it cannot start an embedded redis")
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, supervisorArg, dir) // ends with its last command
	cmd.Args[0] = "neuronmill"
	cmd.Dir = "/"
	for _, name := range supervisorEnv {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	_, err = cmd.StdinPipe() // never written to: its end tells the supervisor that this process ended
	said, err2 := cmd.StderrPipe()
	if err = errors.Join(err, err2); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	s := &starting{cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(s.exited)
		text, _ := io.ReadAll(io.LimitReader(said, 64<<10))
		err := cmd.Wait()
		switch reason := strings.TrimSpace(string(bytes.ToValidUTF8(text, nil))); {
		case err == nil:
		case reason != "":
			s.err = errors.New(reason)
		default:
			s.err = fmt.Errorf("the supervisor ended: %w", err)
		}
	}()
	return s, nil
}
