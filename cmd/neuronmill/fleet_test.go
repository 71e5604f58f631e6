package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// fleet is the deployed system: a real Redis, a real S3 server, the emulator and every
// worker as separate processes.
type fleet struct {
	t      *testing.T
	binary string
	env    []string
	api    string // address of the emulator
	redis  redis.UniversalClient
	store  storage.Store
}

func newFleet(t *testing.T) *fleet {
	f, _ := newFleetOnOne(t)
	return f
}

// newFleetOnOne also returns the Redis, for tests that kill it.
func newFleetOnOne(t *testing.T) (*fleet, *realtest.Server) {
	server := realtest.Redis(t)
	return newFleetOn(t, "redis://"+server.Addr+"/0", redis.NewClient(&redis.Options{Addr: server.Addr})), server
}

func newFleetOn(t *testing.T, redisURL string, client redis.UniversalClient) *fleet {
	binary, err := built()
	require.NoError(t, err)
	storeURL := realtest.S3(t)
	f := &fleet{t: t, binary: binary, redis: client}
	t.Cleanup(func() { f.redis.Close() })
	f.store, _, err = app.OpenStore(t.Context(), app.Settings{StoreURL: storeURL})
	require.NoError(t, err)
	address := realtest.FreeAddr(t)
	f.api = "http://" + address
	f.env = append(os.Environ(),
		"NEURONMILL_REDIS_URL="+redisURL,
		"NEURONMILL_STORE_URL="+storeURL,
		"NEURONMILL_DATA_DIR="+t.TempDir(),
		"CLOUDFLARE_ACCOUNT_ID=0123456789abcdef0123456789abcdef",
		"CLOUDFLARE_API_TOKEN=canary-token-that-must-not-leak",
		"CLOUDFLARE_BASE_URL="+f.api+"/client/v4",
	)
	f.start("emulator", "--listen", address)
	realtest.WaitTCP(t, address)
	return f
}

// built builds the binary with failpoints once for all tests, with the race detector if
// the tests have it.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "neuronmill-test-")
	if err != nil {
		return "", err
	}
	sharedBinary = filepath.Join(dir, "neuronmill")
	args := []string{"build", "-tags", "failpoint", "-o", sharedBinary}
	if raceDetector {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return sharedBinary, fmt.Errorf("%w: %s", err, out)
	}
	return sharedBinary, nil
})

// sharedBinary is the path of the binary; empty until it is built.
var sharedBinary string

// start runs a command until the test ends. Its output is shown on failure.
func (f *fleet) start(args ...string) *exec.Cmd {
	return f.startWith(nil, args...)
}

func (f *fleet) startWith(env []string, args ...string) *exec.Cmd {
	f.t.Helper()
	cmd := exec.Command(f.binary, args...)
	cmd.Env = append(slices.Clip(f.env), env...)
	var logs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &logs, &logs
	require.NoError(f.t, cmd.Start())
	f.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
		}
		if f.t.Failed() {
			f.t.Logf("%v:\n%s", args, logs.String())
		}
		require.NotContains(f.t, logs.String(), "canary-token", "the token is in the log")
	})
	return cmd
}

// run runs a command to its end and returns its output.
func (f *fleet) run(args ...string) string {
	f.t.Helper()
	return f.runOn("", args...)
}

// runOn does the same with text on stdin.
func (f *fleet) runOn(stdin string, args ...string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.binary, args...)
	cmd.Env, cmd.Stdin = f.env, strings.NewReader(stdin)
	var stdout, stderr safeBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(f.t, cmd.Run(), stderr.String())
	return stdout.String()
}

// runFor runs a command that may take so long, and returns its stderr.
func (f *fleet) runFor(most time.Duration, args ...string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.binary, args...)
	cmd.Env = f.env
	var stderr safeBuffer
	cmd.Stderr = &stderr
	require.NoError(f.t, cmd.Run(), stderr.String())
	return stderr.String()
}

// calls returns the calls in the emulator's log, which show the cost.
func (f *fleet) calls() []workersaitest.Request {
	f.t.Helper()
	resp, err := http.Get(f.api + "/_emulator/requests")
	require.NoError(f.t, err)
	defer resp.Body.Close()
	var requests []workersaitest.Request
	for decoder := json.NewDecoder(resp.Body); ; {
		var q workersaitest.Request
		if err := decoder.Decode(&q); err == io.EOF {
			return requests
		} else {
			require.NoError(f.t, err)
		}
		requests = append(requests, q)
	}
}

func (f *fleet) results(prefix string) map[string]tasks.Result {
	f.t.Helper()
	results := map[string]tasks.Result{}
	for info, err := range f.store.List(f.t.Context(), prefix, "") {
		require.NoError(f.t, err)
		if !strings.HasSuffix(info.Key, "/result.json") {
			continue
		}
		body, err := f.store.Get(f.t.Context(), info.Key)
		require.NoError(f.t, err)
		var r tasks.Result
		require.NoError(f.t, json.NewDecoder(body).Decode(&r))
		body.Close()
		results[r.ID] = r
	}
	return results
}

func TestEveryKindRunsThroughSeparateProcesses(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.start("worker", "--concurrency", "2")
	clip := filepath.Join(t.TempDir(), "clip.wav")
	require.NoError(t, os.WriteFile(clip, workersaitest.SampleWAV(), 0o600))
	commands := [][]string{
		{"transcription", clip},
		{"image", "a mill by a river"},
		{"translation", "hello world", "--target-lang", "es"},
		{"embedding", "red apples"},
		{"text", "say hello"},
	}
	for _, c := range commands {
		printed := f.run(append([]string{"run", "--json"}, c...)...)
		var r tasks.Result
		require.NoError(t, json.Unmarshal([]byte(printed), &r), printed)
		require.Equal(t, tasks.Completed, r.Status, printed)
		require.Equal(t, c[0], string(r.Kind))
		for _, a := range r.Artefacts {
			info, err := f.store.Head(t.Context(), a.Key)
			require.NoError(t, err)
			require.Equal(t, a.Bytes, info.Size)
		}
	}
	require.Len(t, f.results("default/tasks/"), len(commands))
	require.Len(t, f.calls(), len(commands))
}

func TestAWorkerKilledAtAnyArrowLeavesExactlyOneResult(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	points := []string{"taken", "before-call", "after-call", "after-artefact", "before-result", "after-result", "before-pending-delete", "before-ack"}
	var ids []string
	for _, point := range points {
		id := strings.TrimSpace(f.run("enqueue", "image", "killed at "+point))
		worker := f.startWith([]string{"NEURONMILL_FAILPOINT=" + point}, "worker", "--kinds", "image")
		_ = worker.Wait()
		require.Equal(t, 137, worker.ProcessState.ExitCode(), point)
		f.setLease(id, time.Now().Add(time.Hour)) // the next worker must not take it up and die with two
		ids = append(ids, id)
	}
	for _, id := range ids {
		f.setLease(id, time.Unix(1, 0))
	}
	f.start("worker", "--kinds", "image")
	require.Eventually(t, func() bool {
		active, err := f.redis.LLen(t.Context(), "asynq:{image:interactive}:active").Result()
		return err == nil && active == 0 && len(f.results("default/tasks/")) == len(points) && f.pending() == 0
	}, 2*time.Minute, 200*time.Millisecond)
	unsettled := 0
	for id, r := range f.results("default/tasks/") {
		require.Equal(t, tasks.Completed, r.Status, id)
		unsettled += r.Usage.Unsettled
	}
	require.Equal(t, 2, unsettled, "a death after the count may have been one after the call")
	// Only a death between sending a call and storing its answer costs a second call.
	require.Len(t, f.calls(), len(points)+1)
}

// setLease changes when the lease of a dead worker's task expires: half a minute after
// the death unless changed.
func (f *fleet) setLease(id string, until time.Time) {
	f.t.Helper()
	changed, err := f.redis.ZAddArgs(f.t.Context(), "asynq:{image:interactive}:lease", redis.ZAddArgs{
		XX: true, Ch: true, Members: []redis.Z{{Score: float64(until.Unix()), Member: id}},
	}).Result()
	require.NoError(f.t, err)
	require.EqualValues(f.t, 1, changed, "the task is not leased")
}

// pending counts the pending records of single tasks. Shared ones stay for minutes.
func (f *fleet) pending() int {
	n := 0
	for info, err := range f.store.List(f.t.Context(), "default/pending/", "") {
		require.NoError(f.t, err)
		if !strings.HasPrefix(info.Key, objects.SharedPrefix("default")) {
			n++
		}
	}
	return n
}
