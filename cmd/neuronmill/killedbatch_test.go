package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

const (
	killedLines  = 6_000
	killedChunks = killedLines / 100 // each is one call
)

// textsFile is a file with the texts of a batch.
func textsFile(t *testing.T) string {
	var input strings.Builder
	for n := range killedLines {
		fmt.Fprintf(&input, "text %d\n", n)
	}
	file := filepath.Join(t.TempDir(), "texts.txt")
	require.NoError(t, os.WriteFile(file, []byte(input.String()), 0o600))
	return file
}

// slowWorker starts a worker at four calls a second of one second each, so that there are
// always some under way.
func (f *fleet) slowWorker() *exec.Cmd {
	return f.startWith([]string{"NEURONMILL_LIMITS=embedding=240"}, "worker", "--concurrency", "4")
}

// sent waits until so many calls were sent.
func (f *fleet) sent(least int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return len(f.calls()) >= least }, 3*time.Minute, 50*time.Millisecond, "no progress")
}

// kill ends a command as a lost machine does.
func (f *fleet) kill(cmd *exec.Cmd) {
	f.t.Helper()
	require.NoError(f.t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// chunkCalls returns how many calls were sent for each chunk of the texts: a lost one may have
// been billed.
func (f *fleet) chunkCalls() (sent [killedChunks]int) {
	f.t.Helper()
	for _, q := range f.calls() {
		var body struct{ Text []string }
		require.NoError(f.t, json.Unmarshal(q.Body, &body))
		require.Len(f.t, body.Text, 100)
		n, err := strconv.Atoi(strings.TrimPrefix(body.Text[0], "text "))
		require.NoError(f.t, err)
		sent[n/100]++
	}
	return sent
}

// lost kills a worker and returns which chunks were called and have no result in the bucket:
// their calls were under way.
func (f *fleet) lost(worker *exec.Cmd) (lost [killedChunks]int) {
	f.t.Helper()
	f.kill(worker)
	stored := map[int]bool{}
	for _, r := range f.results("default/tasks/") {
		var round, segment, chunk int
		_, err := fmt.Sscanf(r.Origin.Chunk, "%d/%d/%d", &round, &segment, &chunk)
		require.NoError(f.t, err)
		stored[10*segment+chunk] = true
	}
	for info, err := range f.store.List(f.t.Context(), "default/batches/", "") {
		require.NoError(f.t, err)
		_, name, isShard := strings.Cut(info.Key, "/shards/0/")
		if segment, err := strconv.Atoi(strings.TrimSuffix(name, ".jsonl")); isShard && err == nil {
			for chunk := range 10 {
				stored[10*segment+chunk] = true
			}
		}
	}
	for chunk, n := range f.chunkCalls() {
		if n > 0 && !stored[chunk] {
			lost[chunk] = 1
		}
	}
	return lost
}

// killedOutput checks the output of a batch whose workers were killed: each line is there once,
// in order, and no call was sent again but those that were under way at a kill.
func (f *fleet) killedOutput(output string, kills ...[killedChunks]int) {
	f.t.Helper()
	n := 0
	for line := range strings.Lines(output) {
		n++
		require.True(f.t, strings.HasPrefix(line, fmt.Sprintf(`{"id":"%d","status":"completed","output":{"dimensions":768,"vectors":[[`, n)), "line %d: %.80s", n, line)
	}
	require.Equal(f.t, killedLines, n)
	for chunk, sent := range f.chunkCalls() {
		most := 1
		for _, lost := range kills {
			most += lost[chunk]
		}
		require.Positive(f.t, sent, "chunk %d", chunk)
		require.LessOrEqual(f.t, sent, most, "chunk %d was called again after its result was stored", chunk)
	}
}

// TestASubmittedBatchOutlivesItsKilledWorkersAndAWipedRedis kills the worker that drives a
// batch, wipes Redis in the middle, and kills the next worker.
func TestASubmittedBatchOutlivesItsKilledWorkersAndAWipedRedis(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.fault(workersaitest.Fault{Delay: time.Second})
	id := strings.TrimSpace(f.run("batch", "submit", textsFile(t), "--kind", "embedding"))
	first := f.slowWorker()
	f.sent(8)
	lost := f.lost(first)
	before := len(f.calls())
	second := f.slowWorker()
	f.sent(before + 8)
	require.NoError(t, f.redis.FlushAll(t.Context()).Err())
	f.sent(before + 24)
	again := f.lost(second)
	f.slowWorker()
	out := filepath.Join(t.TempDir(), "vectors.jsonl")
	require.Contains(t, f.runFor(5*time.Minute, "batch", "wait", id, "-o", out), "completed: 6000 completed, 0 failed")
	output, err := os.ReadFile(out)
	require.NoError(t, err)
	f.killedOutput(string(output), lost, again)
	info, err := f.store.Head(t.Context(), "default/batches/"+id+"/output.jsonl")
	require.NoError(t, err)
	require.Equal(t, int64(len(output)), info.Size, "the output in the bucket is the same")
}

// TestABatchRunOutlivesItsKilledProcesses kills batch run and its worker in turn. The same
// command continues.
func TestABatchRunOutlivesItsKilledProcesses(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.fault(workersaitest.Fault{Delay: time.Second})
	out := filepath.Join(t.TempDir(), "vectors.jsonl")
	args := []string{"batch", "run", textsFile(t), "--kind", "embedding", "-o", out}
	worker := f.slowWorker()
	run := f.start(args...)
	f.sent(8)
	f.kill(run)
	for _, bound := range []string{"--spend=free", "--max-neurons=5"} {
		refused := exec.CommandContext(t.Context(), f.binary, append(args, bound)...)
		refused.Env = f.env
		said, err := refused.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(said), "a run of this file was begun without "+strings.Split(bound, "=")[0])
	}
	again := f.start(args...)
	f.sent(16)
	lost := f.lost(worker)
	f.kill(again)
	require.NoError(t, f.redis.FlushAll(t.Context()).Err())
	require.NoFileExists(t, out)
	f.slowWorker()
	require.Contains(t, f.runFor(5*time.Minute, args...), "completed: 6000 completed, 0 failed")
	output, err := os.ReadFile(out)
	require.NoError(t, err)
	f.killedOutput(string(output), lost)
	for info, err := range f.store.List(t.Context(), "default/tasks/", "") {
		require.NoError(t, err)
		require.Empty(t, info.Key, "nothing is left of the tasks")
	}
}
