// Package realtest starts real servers for tests: a Redis and an S3 server, each a
// process on loopback that ends with the test. Where a program is missing the test is
// skipped and says how to get it; under CI=true that is a failure.
package realtest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Server is a running process.
type Server struct {
	Addr string // host:port
	Dir  string // its data
}

// Redis starts an empty redis-server or valkey-server.
func Redis(t *testing.T) Server {
	t.Helper()
	program := find(t, "apt-get install redis-server", "redis-server", "valkey-server")
	s := Server{Addr: FreeAddr(t), Dir: t.TempDir()}
	_, port, err := net.SplitHostPort(s.Addr)
	require.NoError(t, err)
	start(t, s.Addr, program, "--port", port, "--bind", "127.0.0.1", "--dir", s.Dir,
		"--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction")
	return s
}

// RedisCluster starts three masters and gives their addresses once all slots are
// served.
func RedisCluster(t *testing.T) []string {
	t.Helper()
	program := find(t, "apt-get install redis-server", "redis-server", "valkey-server")
	var addrs []string
	var nodes []*redis.Client
	for range 3 {
		addr := FreeAddr(t)
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		_, bus, err := net.SplitHostPort(FreeAddr(t))
		require.NoError(t, err)
		start(t, addr, program, "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "",
			"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "3000", "--maxmemory-policy", "noeviction")
		node := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { node.Close() })
		addrs, nodes = append(addrs, addr), append(nodes, node)
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
	return addrs
}

// RedisSentinel starts a master and a sentinel that watches it under a name, and gives
// the sentinel's address.
func RedisSentinel(t *testing.T, name string) string {
	t.Helper()
	master := Redis(t)
	_, masterPort, err := net.SplitHostPort(master.Addr)
	require.NoError(t, err)
	program := find(t, "apt-get install redis-server", "redis-server", "valkey-server")
	addr := FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	text := "port " + port + "\nbind 127.0.0.1\nsentinel monitor " + name + " 127.0.0.1 " + masterPort + " 1\n"
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	start(t, addr, program, file, "--sentinel")
	return addr
}

// S3 starts versitygw with an empty bucket and gives its URL as a setting has it; the
// credentials are in the test's environment.
func S3(t *testing.T) (storeURL string) {
	t.Helper()
	return "s3://results/test?region=us-east-1&path_style=true&endpoint=http://" + S3Server(t).Addr
}

// Bucket is the bucket that S3Server has.
const Bucket = "results"

// S3Server starts versitygw.
func S3Server(t *testing.T) Server {
	t.Helper()
	program := find(t, "go build -C tools/versitygw -o DIR/versitygw github.com/versity/versitygw/cmd/versitygw, with DIR on PATH", "versitygw")
	s := Server{Addr: FreeAddr(t), Dir: t.TempDir()}
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	data, side := filepath.Join(s.Dir, "data"), filepath.Join(s.Dir, "side")
	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.MkdirAll(side, 0o700))
	start(t, s.Addr, program, "--port", s.Addr, "--access", "test", "--secret", "test-secret", "--quiet", "posix", "--sidecar", side, data)
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + s.Addr), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider("test", "test-secret", ""),
	})
	_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(Bucket)})
	require.NoError(t, err)
	return s
}

func find(t *testing.T, how string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not on PATH: %s", names[0], how)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s is not on PATH: %s", names[0], how)
	return ""
}

// start runs a server until the test ends, and waits until it listens.
func start(t *testing.T, addr, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var logs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &logs, &logs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", program, logs.String())
		}
	})
	WaitTCP(t, addr)
}

// FreeAddr is an address on loopback that nothing listens on.
func FreeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// WaitTCP returns once something listens on addr.
func WaitTCP(t *testing.T, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var dialer net.Dialer
	for {
		c, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("nothing listens on %s: %v", addr, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
