package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/require"
)

// withAndWithoutAServer runs a test with a redis-server on PATH and without one.
func withAndWithoutAServer(t *testing.T, test func(t *testing.T, path string)) {
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		realtest.NeedRedis(t)
		test(t, os.Getenv("PATH"))
	})
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		test(t, t.TempDir())
	})
}

// process is a command on the embedded defaults in a folder.
type process struct {
	*exec.Cmd
	stdout, stderr safeBuffer
	done           chan struct{}
}

func begin(t *testing.T, path, dir, stdin string, env []string, args ...string) *process {
	t.Helper()
	binary, err := built()
	require.NoError(t, err)
	p := &process{Cmd: exec.CommandContext(t.Context(), binary, args...), done: make(chan struct{})}
	p.Env = append([]string{"PATH=" + path, "NEURONMILL_DATA_DIR=" + dir, "HOME=" + dir}, env...)
	p.Stdin = strings.NewReader(stdin)
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	require.NoError(t, p.Start())
	go func() {
		_ = p.Wait()
		close(p.done)
	}()
	return p
}

// ended waits for the end of the process and returns its exit code.
func (p *process) ended(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(3 * time.Minute):
		_ = p.Process.Kill()
		<-p.done
		require.Fail(t, "it does not end", "%v\n%s", p.Args, p.stderr.String())
	}
	return p.ProcessState.ExitCode()
}

// noServerRuns waits until the folder's server has ended and its lock is free.
func noServerRuns(t *testing.T, dir string) {
	t.Helper()
	lock, err := os.Open(filepath.Join(dir, "redis", "lock"))
	require.NoError(t, err)
	defer lock.Close()
	require.Eventually(t, func() bool { return syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil },
		30*time.Second, 20*time.Millisecond, "the server goes on without a command")
	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_UN))
}

func someLines(of string, n int) (lines, translated string) {
	for i := range n {
		lines += fmt.Sprintf("%s %d\n", of, i)
		translated += fmt.Sprintf("[fr] %s %d\n", of, i)
	}
	return lines, translated
}

func TestRunsThatStartAtOnceShareTheDataFolder(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	withAndWithoutAServer(t, func(t *testing.T, path string) {
		dir := t.TempDir()
		for round := range 4 {
			var all []*process
			var want []string
			for n := range 3 {
				lines, translated := someLines(fmt.Sprintf("run %d of round %d, line", n, round), 10)
				all = append(all, begin(t, path, dir, lines, nil, "run", "translation", "-", "--target-lang", "fr"))
				want = append(want, translated)
			}
			for n, p := range all {
				require.Zero(t, p.ended(t), p.stderr.String())
				require.Equal(t, want[n], p.stdout.String())
				require.NotContains(t, p.stderr.String(), "level=")
			}
			noServerRuns(t, dir)
		}
	})
}

func TestARunGoesOnWhenTheOneThatStartedTheServerIsKilled(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	withAndWithoutAServer(t, func(t *testing.T, path string) {
		dir := t.TempDir()
		first := begin(t, path, dir, "", nil, "dev", "--listen", "127.0.0.1:0")
		require.Eventually(t, func() bool {
			holders, err := os.ReadFile(filepath.Join(dir, "redis", "lock"))
			return err == nil && len(holders) > 0
		}, time.Minute, 10*time.Millisecond, "it starts no server")
		lines, translated := someLines("line", 30)
		second := begin(t, path, dir, lines, nil, "run", "translation", "-", "--target-lang", "fr")
		require.Eventually(t, func() bool { // the command runs
			found, err := filepath.Glob(filepath.Join(dir, "bucket", "default", "tasks", "*", "result.json"))
			return err == nil && len(found) > 0
		}, time.Minute, 10*time.Millisecond)
		require.NoError(t, first.Process.Kill())
		require.Zero(t, second.ended(t), second.stderr.String())
		require.Equal(t, translated, second.stdout.String())
		noServerRuns(t, dir)
	})
}

func TestASecondInterruptLeavesNoServer(t *testing.T) {
	t.Parallel()
	withAndWithoutAServer(t, func(t *testing.T, path string) {
		called := make(chan struct{}, 1)
		api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the server notices a disconnect only after it read the body
			select {
			case called <- struct{}{}:
			default:
			}
			<-r.Context().Done() // a call without an end
		}))
		t.Cleanup(api.Close)
		dir := t.TempDir()
		p := begin(t, path, dir, "", []string{"CLOUDFLARE_BASE_URL=" + api.URL}, "run", "text", "Name three rivers")
		select {
		case <-called:
		case <-time.After(time.Minute):
			require.Fail(t, "no call")
		}
		require.Eventually(t, func() bool { // simultaneous signals merge into one
			_ = p.Process.Signal(os.Interrupt)
			select {
			case <-p.done:
				return true
			default:
				return false
			}
		}, time.Minute, 100*time.Millisecond)
		require.Equal(t, 130, p.ended(t))
		noServerRuns(t, dir)
	})
}
