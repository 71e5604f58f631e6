package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// lines is a log for concurrent writers.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

var failed = regexp.MustCompile(`rejected_calls=(\d+),failed_calls=(\d+)`)

// trouble returns how many commands a server has refused and how many connections it has
// accepted, by its own counters.
func trouble(t *testing.T, admin *redis.Client) (refused, connections int) {
	t.Helper()
	stats := admin.Info(t.Context(), "commandstats").Val()
	for _, m := range failed.FindAllStringSubmatch(stats, -1) {
		a, _ := strconv.Atoi(m[1])
		b, _ := strconv.Atoi(m[2])
		refused += a + b
	}
	info := admin.InfoMap(t.Context(), "stats").Val()
	connections, err := strconv.Atoi(info["Stats"]["total_connections_received"])
	require.NoError(t, err)
	return refused, connections
}

// illness makes a Redis refuse commands, and repairs it.
type illness struct {
	settings   []string // the server starts with these
	fall, heal func(*testing.T, *realtest.Server, *redis.Client)
}

var illnesses = map[string]illness{
	"OOM":      {fall: command("CONFIG", "SET", "maxmemory", "1"), heal: command("CONFIG", "SET", "maxmemory", "0")},
	"READONLY": {fall: command("REPLICAOF", "127.0.0.1", "1"), heal: command("REPLICAOF", "NO", "ONE")},
	"WRONGPASS": {
		fall: both(command("ACL", "SETUSER", "worker", "resetpass", ">other"), command("CLIENT", "KILL", "USER", "worker")),
		heal: command("ACL", "SETUSER", "worker", "resetpass", ">secret"),
	},
	"NOPERM":  {fall: command("ACL", "SETUSER", "worker", "-evalsha", "-eval"), heal: command("ACL", "SETUSER", "worker", "+evalsha", "+eval")},
	"MISCONF": {[]string{"--save", "3600 1", "--stop-writes-on-bgsave-error", "yes"}, unsaved, saved},
	"LOADING": {fall: restartedSlowly, heal: both(command("CONFIG", "SET", "key-load-delay", "0"), loaded)},
}

func command(args ...any) func(*testing.T, *realtest.Server, *redis.Client) {
	return func(t *testing.T, _ *realtest.Server, admin *redis.Client) {
		require.NoError(t, admin.Do(t.Context(), args...).Err())
	}
}

func both(one, other func(*testing.T, *realtest.Server, *redis.Client)) func(*testing.T, *realtest.Server, *redis.Client) {
	return func(t *testing.T, server *realtest.Server, admin *redis.Client) {
		one(t, server, admin)
		other(t, server, admin)
	}
}

// unsaved creates a folder at the path of the snapshot, so that saving fails, also for
// root.
func unsaved(t *testing.T, server *realtest.Server, admin *redis.Client) {
	require.NoError(t, os.Mkdir(filepath.Join(server.Dir, "dump.rdb"), 0o700))
	save(t, admin, "err")
}

func saved(t *testing.T, server *realtest.Server, admin *redis.Client) {
	require.NoError(t, os.Remove(filepath.Join(server.Dir, "dump.rdb")))
	save(t, admin, "ok")
}

// save starts a snapshot and waits until it has ended with the wanted status.
func save(t *testing.T, admin *redis.Client, want string) {
	require.Eventually(t, func() bool {
		_ = admin.BgSave(t.Context()).Err() // refused while another snapshot runs
		return admin.InfoMap(t.Context(), "persistence").Val()["Persistence"]["rdb_last_bgsave_status"] == want
	}, 30*time.Second, 100*time.Millisecond)
}

// restartedSlowly kills the server and restarts it with so many keys that loading takes
// half a minute.
func restartedSlowly(t *testing.T, server *realtest.Server, admin *redis.Client) {
	for from := range 50 { // one long script would itself make Redis refuse commands on a loaded machine
		require.NoError(t, admin.Eval(t.Context(), `for i = 1, 3000 do redis.call("SET", "weight:" .. ARGV[1] .. ":" .. i, i) end return 1`, nil, from).Err())
	}
	server.Kill()
	server.Start("--key-load-delay", "100")
	require.Eventually(t, func() bool {
		return admin.InfoMap(t.Context(), "persistence").Val()["Persistence"]["loading"] == "1"
	}, 30*time.Second, 20*time.Millisecond)
}

func loaded(t *testing.T, _ *realtest.Server, admin *redis.Client) {
	require.Eventually(t, func() bool {
		return admin.InfoMap(t.Context(), "persistence").Val()["Persistence"]["loading"] == "0"
	}, time.Minute, 20*time.Millisecond)
}

// The circuit breaker limits requests to a refusing Redis, logs the refusal once, and
// closes when Redis recovers.
func TestARedisThatRefusesIsNotAskedWithoutPause(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	for name, story := range illnesses {
		t.Run(name, func(t *testing.T) {
			// The user is in the settings, since a restart forgets users created with ACL
			// SETUSER.
			server := realtest.Redis(t, append([]string{"--user", "worker", "on", ">secret", "allkeys", "allchannels", "+@all"}, story.settings...)...)
			admin := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer admin.Close()
			require.NoError(t, admin.ConfigSet(t.Context(), "replica-serve-stale-data", "yes").Err())
			client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "worker", Password: "secret"})
			defer client.Close()
			var log lines
			store := storage.NewMemory()
			logger := slog.New(slog.NewTextHandler(&log, nil))
			worker, err := engine.NewWorker(engine.Config{
				Handlers: handlers.All(nil), Redis: client, Store: store, AI: workersaitest.New(workersaitest.Options{}).Client(), Log: logger,
				Gate: gate.New(gate.Config{Redis: client, Pace: catalogued, Log: logger}),
			})
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- worker.Run(ctx); close(done) }()
			defer func() { stop(); <-done }()
			producer := tasks.NewClient(tasks.Config{Redis: admin, Store: store})
			through := func() {
				accepted, err := producer.Enqueue(t.Context(), tasks.Text{Prompt: "hi"})
				require.NoError(t, err)
				result, err := producer.Wait(t.Context(), accepted.ID)
				require.NoError(t, err)
				require.Equal(t, tasks.Completed, result.Status)
			}
			through()

			story.fall(t, server, admin)
			before, _ := trouble(t, admin)
			require.Eventually(t, func() bool { n, _ := trouble(t, admin); return n > before }, 30*time.Second, 20*time.Millisecond)
			// The first refusals come fast. Then the server's own clock and counters show
			// the request rate.
			settle(t, admin, 3*time.Second)
			refused, connections := trouble(t, admin)
			settle(t, admin, 3*time.Second)
			refusedLater, connectionsLater := trouble(t, admin)
			// Without the circuit breaker it is thousands per second. A refused command
			// in a script counts twice, and the client tries READONLY and LOADING four
			// times.
			require.Less(t, refusedLater-refused, 1000, "refused commands in three seconds")
			require.Less(t, connectionsLater-connections, 1000, "logins in three seconds")

			story.heal(t, server, admin)
			through()
			require.Equal(t, 1, strings.Count(log.String(), "redis refuses"), log.String())
			require.Contains(t, log.String(), "answer="+name)
			require.Equal(t, 1, strings.Count(log.String(), "redis is well again"), log.String())
			require.NotContains(t, log.String(), "secret")
			t.Log(fmt.Sprint(name, ": ", refusedLater-refused, " refused commands and ", connectionsLater-connections, " connections in 3 s"))
		})
	}
}

// settle waits for a period on the server's clock.
func settle(t *testing.T, admin *redis.Client, d time.Duration) {
	t.Helper()
	start := admin.Time(t.Context()).Val()
	require.Eventually(t, func() bool { return admin.Time(t.Context()).Val().Sub(start) >= d }, time.Minute, 100*time.Millisecond)
}
