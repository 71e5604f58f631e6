package realtest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Redis starts an empty redis-server or valkey-server with an append-only file and the
// given settings.
func Redis(t *testing.T, settings ...string) *Server {
	t.Helper()
	return redisServer(t, FreeAddr(t), append([]string{"--appendonly", "yes", "--save", ""}, settings...)...)
}

func redisServer(t *testing.T, addr string, args ...string) *Server {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	dir := t.TempDir()
	args = append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--maxmemory-policy", "noeviction"}, args...)
	return start(t, addr, dir, NeedRedis(t), args...)
}

// NeedRedis returns the path of a redis-server or valkey-server. Without one the test is
// skipped; under CI=true it fails.
func NeedRedis(t *testing.T) (program string) {
	t.Helper()
	return find(t, "apt-get install redis-server", "redis-server", "valkey-server")
}

// RedisCluster starts three masters, each with an append-only file, and returns once all
// slots are served.
func RedisCluster(t *testing.T) []*Server {
	t.Helper()
	var servers []*Server
	var nodes []*redis.Client
	for range 3 {
		_, bus, err := net.SplitHostPort(FreeAddr(t))
		require.NoError(t, err)
		server := redisServer(t, FreeAddr(t), "--appendonly", "yes", "--save", "",
			"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "3000")
		_, port, err := net.SplitHostPort(server.Addr)
		require.NoError(t, err)
		node := redis.NewClient(&redis.Options{Addr: server.Addr})
		t.Cleanup(func() { node.Close() })
		servers, nodes = append(servers, server), append(nodes, node)
		first := (len(nodes) - 1) * 5462
		require.NoError(t, node.ClusterAddSlotsRange(t.Context(), first, min(first+5461, 16383)).Err())
		if len(nodes) > 1 {
			require.NoError(t, nodes[0].Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", port, bus).Err())
		}
	}
	for _, node := range nodes {
		require.Eventually(t, func() bool {
			return strings.Contains(node.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
		}, 30*time.Second, 50*time.Millisecond, "the cluster does not come together")
	}
	return servers
}

// Addrs lists the addresses of servers as a URL does.
func Addrs(servers []*Server) string {
	var addrs []string
	for _, s := range servers {
		addrs = append(addrs, s.Addr)
	}
	return strings.Join(addrs, ",")
}

// RedisSentinel starts a master with one replica, and three sentinels that watch it under
// the given name. The first of the two servers is the master.
func RedisSentinel(t *testing.T, name string) (sentinels, servers []*Server) {
	t.Helper()
	master := Redis(t)
	host, port, err := net.SplitHostPort(master.Addr)
	require.NoError(t, err)
	replica := redisServer(t, FreeAddr(t), "--appendonly", "yes", "--save", "", "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	follows := redis.NewClient(&redis.Options{Addr: replica.Addr})
	defer follows.Close()
	require.Eventually(t, func() bool {
		return strings.Contains(follows.Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, 30*time.Second, 50*time.Millisecond, "the replica does not follow")
	for range 3 {
		sentinels = append(sentinels, Sentinel(t, name, host+" "+port, 2))
	}
	for _, s := range sentinels {
		knows := redis.NewSentinelClient(&redis.Options{Addr: s.Addr})
		defer knows.Close()
		require.Eventually(t, func() bool {
			state := knows.Master(t.Context(), name).Val()
			return state["num-other-sentinels"] == "2" && state["num-slaves"] == "1"
		}, 60*time.Second, 50*time.Millisecond, "the sentinels do not find each other")
	}
	return sentinels, []*Server{master, replica}
}

// Sentinel starts a sentinel that watches a master, with further lines of settings.
func Sentinel(t *testing.T, name, master string, quorum int, lines ...string) *Server {
	t.Helper()
	addr, dir := FreeAddr(t), t.TempDir()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor %s %s %d\n", port, name, master, quorum) +
		"sentinel down-after-milliseconds " + name + " 1000\nsentinel failover-timeout " + name + " 5000\n" +
		strings.Join(append(lines, ""), "\n")
	file := filepath.Join(dir, "sentinel.conf")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return start(t, addr, dir, NeedRedis(t), file, "--sentinel")
}
