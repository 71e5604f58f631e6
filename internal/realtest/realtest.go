// Package realtest starts real servers for tests: a Redis and an S3 server. Each is a
// process on loopback that ends with the test. Without the program the test is skipped.
// The run says so, also without -v, and says how to get the program. Under CI=true a
// missing program is a failure.
package realtest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/neuronmill/neuronmill/internal/freeport"
	"github.com/stretchr/testify/require"
)

// Server is a running process that can be killed and restarted.
type Server struct {
	Addr string // host:port
	Dir  string // data folder

	t       *testing.T
	program string
	args    []string
	cmd     *exec.Cmd
	logs    bytes.Buffer
}

// start runs a server until the test ends, and waits until it listens.
func start(t *testing.T, addr, dir, program string, args ...string) *Server {
	t.Helper()
	s := &Server{Addr: addr, Dir: dir, t: t, program: program, args: args}
	s.Start()
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("%s:\n%s", program, s.logs.String())
		}
	})
	return s
}

// Kill ends the process as SIGKILL does.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Start restarts the process on its data, with optional further arguments.
func (s *Server) Start(further ...string) {
	s.t.Helper()
	s.cmd = exec.Command(s.program, slices.Concat(s.args, further)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.logs, &s.logs
	require.NoError(s.t, s.cmd.Start())
	WaitTCP(s.t, s.Addr)
}

// Forget removes the append-only file of a killed Redis.
func (s *Server) Forget() {
	s.t.Helper()
	require.NoError(s.t, os.RemoveAll(filepath.Join(s.Dir, "appendonlydir")))
}

// CutTail removes the last bytes of the append-only file of a killed Redis, as a power
// failure does.
func (s *Server) CutTail(bytes int64) {
	s.t.Helper()
	file, size := s.appendOnly()
	require.NoError(s.t, os.Truncate(file, max(0, size-bytes)))
}

// Moment returns how many bytes of its append-only file a Redis has written. SetBack
// returns a killed Redis to that point.
func (s *Server) Moment() int64 {
	s.t.Helper()
	_, size := s.appendOnly()
	return size
}

// SetBack makes a killed Redis lose everything after a moment.
func (s *Server) SetBack(moment int64) {
	s.t.Helper()
	file, _ := s.appendOnly()
	require.NoError(s.t, os.Truncate(file, moment))
}

// appendOnly returns the current append-only file and its size.
func (s *Server) appendOnly() (file string, size int64) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "appendonlydir", "*.incr.aof"))
	require.NoError(s.t, err)
	require.NotEmpty(s.t, files)
	file = files[len(files)-1]
	info, err := os.Stat(file)
	require.NoError(s.t, err)
	return file, info.Size()
}

// S3 starts versitygw with an empty bucket and returns its URL in the form of a setting.
// The credentials are in the environment of the test and of its child processes.
func S3(t *testing.T) (storeURL string) {
	t.Helper()
	return "s3://results/test?region=us-east-1&path_style=true&endpoint=http://" + S3Server(t).Addr
}

// Bucket is the bucket of S3Server.
const Bucket = "results"

// S3Server starts versitygw.
func S3Server(t *testing.T) *Server {
	t.Helper()
	program := find(t, "go build -C tools/versitygw -o DIR/versitygw github.com/versity/versitygw/cmd/versitygw, with DIR on PATH", "versitygw")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		// The same for all tests, so that they can run in parallel.
		require.NoError(t, os.Setenv(name, value)) //nolint:usetesting // Setenv of a test forbids that
	}
	addr, dir := FreeAddr(t), t.TempDir()
	data, side := filepath.Join(dir, "data"), filepath.Join(dir, "side")
	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.MkdirAll(side, 0o700))
	s := start(t, addr, dir, program, "--port", addr, "--access", "test", "--secret", "test-secret", "--quiet", "posix", "--sidecar", side, data)
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + addr), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider("test", "test-secret", ""),
	})
	_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(Bucket)})
	require.NoError(t, err)
	return s
}

// FreeAddr returns a free address on loopback.
func FreeAddr(t *testing.T) string {
	t.Helper()
	port, err := freeport.Find()
	require.NoError(t, err)
	return "127.0.0.1:" + port
}

// WaitTCP returns once a server listens on addr.
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
