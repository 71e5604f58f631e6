package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/embedded"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/require"
)

// commandEnv makes this test binary a command that uses the server of a folder. The
// command reports that it has joined, increments the key "n" for each line of stdin, and
// prints the value. It leaves at the end of stdin.
const commandEnv = "EMBEDDED_TEST_FOLDER"

func TestMain(m *testing.M) {
	embedded.Main()
	if dir := os.Getenv(commandEnv); dir != "" {
		if err := useServer(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func useServer(dir string) error {
	ctx := context.Background()
	s, err := embedded.Join(ctx, dir, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	fmt.Println("joined")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		for {
			n, err := s.Client.Incr(ctx, "n").Result()
			if err == nil {
				fmt.Println(n)
				break
			}
			fmt.Fprintln(os.Stderr, err) // the server is being replaced
			time.Sleep(50 * time.Millisecond)
		}
	}
	return s.Close()
}

// command is a running command.
type command struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func start(t *testing.T, dir string) *command {
	t.Helper()
	c := &command{t: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), commandEnv+"="+dir, "CLOUDFLARE_API_TOKEN=canary")
	var err error
	c.stdin, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.stdout = bufio.NewReader(stdout)
	c.cmd.Stderr = &c.stderr
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.kill()
		}
		if t.Failed() {
			t.Log(c.stderr.String())
		}
	})
	return c
}

func (c *command) line() string {
	c.t.Helper()
	line, err := c.stdout.ReadString('\n')
	require.NoError(c.t, err)
	return strings.TrimSpace(line)
}

func (c *command) joined() *command {
	c.t.Helper()
	require.Equal(c.t, "joined", c.line())
	return c
}

// add increments the key "n" and returns its new value.
func (c *command) add() string {
	c.t.Helper()
	_, err := io.WriteString(c.stdin, "\n")
	require.NoError(c.t, err)
	return c.line()
}

func (c *command) leave() {
	c.t.Helper()
	c.stdin.Close()
	require.NoError(c.t, c.cmd.Wait(), c.stderr.String())
}

func (c *command) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// locked reports whether any process holds the folder's lock.
func locked(t *testing.T, dir string) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "redis", "lock"))
	require.NoError(t, err)
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

// pids returns the processes named in the lock: the supervisor, then the redis-server.
func pids(t *testing.T, dir string) []int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "redis", "lock"))
	require.NoError(t, err)
	var all []int
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		require.NoError(t, err)
		all = append(all, pid)
	}
	require.NotEmpty(t, all)
	return all
}

// ends waits until no server runs for the folder. were are the process ids of its last
// server.
func ends(t *testing.T, dir string, were ...int) {
	t.Helper()
	require.Eventually(t, func() bool { return !locked(t, dir) }, 20*time.Second, 10*time.Millisecond, "the server goes on without a command")
	for _, pid := range were {
		require.Eventually(t, func() bool { return syscall.Kill(pid, 0) != nil }, 10*time.Second, 10*time.Millisecond, "process %d goes on", pid)
	}
}

// onBoth runs a test with a redis-server on PATH and without one.
func onBoth(t *testing.T, test func(t *testing.T, memory bool)) {
	t.Run("redis-server", func(t *testing.T) {
		realtest.NeedRedis(t)
		test(t, false)
	})
	t.Run("in memory", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		test(t, true)
	})
}

func TestCommandsThatStartAtOnceShareOneServer(t *testing.T) {
	realtest.Long(t)
	onBoth(t, func(t *testing.T, memory bool) {
		dir := t.TempDir()
		next := 1
		for range 3 {
			var all []*command
			for range 6 {
				all = append(all, start(t, dir))
			}
			for _, c := range all {
				c.joined()
			}
			if memory {
				next = 1 // the queue in memory starts empty
			}
			for _, c := range all {
				require.Equal(t, strconv.Itoa(next), c.add())
				next++
			}
			were := pids(t, dir)
			var leaving sync.WaitGroup
			for _, c := range all {
				leaving.Go(c.leave)
			}
			leaving.Wait()
			require.False(t, locked(t, dir), "the last command waits for the server's end")
			ends(t, dir, were...)
		}
	})
}

func TestTheServerOutlivesTheCommandThatStartedItAndEndsWithTheLast(t *testing.T) {
	onBoth(t, func(t *testing.T, _ bool) {
		dir := t.TempDir()
		first := start(t, dir).joined()
		require.Equal(t, "1", first.add())
		second := start(t, dir).joined()
		first.kill()
		require.Equal(t, "2", second.add())
		third := start(t, dir).joined()
		second.leave()
		require.Equal(t, "3", third.add())
		require.True(t, locked(t, dir))
		were := pids(t, dir)
		third.kill()
		ends(t, dir, were...)
	})
}

func TestACommandThatDiesBeforeItJoinsLeavesNoServer(t *testing.T) {
	onBoth(t, func(t *testing.T, _ bool) {
		dir := t.TempDir()
		for wait := time.Duration(0); wait < 60*time.Millisecond; wait += 6 * time.Millisecond {
			c := start(t, dir)
			time.Sleep(wait) // a different moment each time
			c.kill()
		}
		last := start(t, dir).joined()
		were := pids(t, dir)
		last.leave()
		ends(t, dir, were...)
	})
}

func TestAServerThatIsKilledIsReplaced(t *testing.T) {
	realtest.Long(t)
	onBoth(t, func(t *testing.T, memory bool) {
		for victim := range 2 {
			if memory && victim == 1 {
				continue // the supervisor is the server
			}
			dir := t.TempDir()
			first, second := start(t, dir).joined(), start(t, dir).joined()
			require.Equal(t, "1", first.add())
			require.Equal(t, "2", second.add())
			before := pids(t, dir)
			require.NoError(t, syscall.Kill(before[victim], syscall.SIGKILL))

			require.Eventually(t, func() bool {
				now, err := os.ReadFile(filepath.Join(dir, "redis", "lock"))
				return err == nil && len(now) > 0 && strings.Fields(string(now))[0] != strconv.Itoa(before[0])
			}, 20*time.Second, 10*time.Millisecond, "no other supervisor starts")
			sum, err := strconv.Atoi(first.add())
			require.NoError(t, err)
			if victim == 0 && !memory { // a killed redis-server may lose its latest writes
				require.Equal(t, 3, sum, "it has read its file")
			}
			require.Equal(t, strconv.Itoa(sum+1), second.add(), "both use the same one")
			were := append(before, pids(t, dir)...)
			first.leave()
			second.leave()
			ends(t, dir, were...)
		}
	})
}

func TestAServerWhoseCommandsAndSupervisorWereKilledIsReplaced(t *testing.T) {
	realtest.NeedRedis(t)
	dir := t.TempDir()
	c := start(t, dir).joined()
	require.Equal(t, "1", c.add())
	before := pids(t, dir)
	require.NoError(t, syscall.Kill(before[0], syscall.SIGSTOP)) // the supervisor must not notice the command's end
	c.kill()
	require.NoError(t, syscall.Kill(before[0], syscall.SIGKILL))
	next := start(t, dir).joined()
	require.Equal(t, "2", next.add())
	were := append(before, pids(t, dir)...)
	next.leave()
	ends(t, dir, were...)
}

func TestAFolderThatAnotherProgramHasLockedIsReported(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "redis"), 0o700))
	lock, err := os.Create(filepath.Join(dir, "redis", "lock"))
	require.NoError(t, err)
	defer lock.Close()
	_, err = lock.WriteString("4711\n")
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	_, err = embedded.Join(t.Context(), dir, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "(4711)")
	require.ErrorContains(t, err, "NEURONMILL_DATA_DIR")
}

func TestAServerThatDoesNotStartSaysWhy(t *testing.T) {
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "redis-server"), []byte("#!/bin/sh\nexit 3\n"), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	_, err := embedded.Join(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "did not start")
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "redis.log")
}

func TestAFolderWithALongPathHasItsSocketsElsewhere(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	temporary, err := os.MkdirTemp("", "nm") //nolint:usetesting // the path of t.TempDir is too long for sockets
	require.NoError(t, err)
	defer os.RemoveAll(temporary)
	t.Setenv("TMPDIR", temporary)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	first, second := start(t, dir).joined(), start(t, dir).joined()
	require.Equal(t, "1", first.add())
	require.Equal(t, "2", second.add())
	were := pids(t, dir)
	first.leave()
	second.leave()
	ends(t, dir, were...)
	left, err := filepath.Glob(filepath.Join(temporary, "neuronmill-*", "*.sock"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestTheServersProcessesGetNoSecrets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	onBoth(t, func(t *testing.T, _ bool) {
		dir := t.TempDir()
		c := start(t, dir).joined()
		for _, pid := range pids(t, dir) {
			environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			require.NoError(t, err)
			require.NotContains(t, string(environment), "canary")
		}
		c.leave()
	})
}

func TestOneSessionOfAServerInMemoryIsToldThatItIsEmpty(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	join := func() *embedded.Session {
		s, err := embedded.Join(t.Context(), dir, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		return s
	}
	for range 2 {
		first, second := join(), join()
		require.True(t, first.Empty)
		require.False(t, second.Empty)
		require.NoError(t, first.Close())
		third := join()
		require.False(t, third.Empty)
		require.NoError(t, second.Close())
		require.NoError(t, third.Close())
	}
	// Commands may still use data of a server that was killed.
	victim := join()
	require.NoError(t, syscall.Kill(pids(t, dir)[0], syscall.SIGKILL))
	require.NoError(t, victim.Close())
	next := join()
	require.False(t, next.Empty)
	require.NoError(t, next.Close())
}
