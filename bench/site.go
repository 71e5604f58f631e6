package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/freeport"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
)

// site is the environment of one row: an empty Redis, an empty bucket, an emulator, and
// the started workers.
type site struct {
	*lab
	dir    string
	port   string // of Redis
	redis  *redis.Client
	bucket string // as in a setting
	store  storage.Store
	api    *workersaitest.Server
	url    string // of the emulator

	server    *http.Server
	processes []*process
	servers   int // how many of the processes are Redis and the store
}

// solo is a model unknown to the catalogue, so its tasks are not coalesced. The emulator
// treats it as the default embedding model.
const solo = "@cf/bench/bge-base-en-v1.5"

// open creates a site whose bucket is a folder.
func (l *lab) open(o workersaitest.Options) (*site, error) { return l.openWith(o, folder) }

func folder(s *site) error {
	s.bucket = "file:" + filepath.Join(s.dir, "bucket")
	return nil
}

// openWith creates a site with the given bucket.
func (l *lab) openWith(o workersaitest.Options, bucket func(*site) error) (*site, error) {
	dir, err := os.MkdirTemp(l.dir, "site-")
	if err != nil {
		return nil, err
	}
	o.KeepCalls = 1 << 20 // every call is measured
	s := &site{lab: l, dir: dir, api: workersaitest.New(o)}
	if err := s.start(bucket); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *site) start(bucket func(*site) error) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.url = "http://" + listener.Addr().String() + "/client/v4"
	s.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, solo, "@cf/baai/bge-base-en-v1.5", 1)
		s.api.ServeHTTP(w, r)
	})}
	go func() { _ = s.server.Serve(listener) }() // ends with close
	if s.port, err = freeport.Find(); err != nil {
		return err
	}
	cmd := exec.Command("redis-server", "--port", s.port, "--bind", "127.0.0.1", "--dir", s.dir,
		"--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction")
	if err := s.launch(cmd, "redis"); err != nil {
		return err
	}
	s.redis = redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + s.port})
	err = s.until("redis", 10*time.Second, func() (bool, error) {
		return s.redis.Ping(s.ctx).Err() == nil, nil
	})
	if err == nil {
		err = bucket(s)
	}
	if err == nil {
		s.store, _, err = app.OpenStore(s.ctx, app.Settings{StoreURL: s.bucket})
	}
	s.servers = len(s.processes)
	return err
}

// The credentials of the S3 server; the workers read them from the environment.
var s3Environment = []string{"AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench-secret", "AWS_EC2_METADATA_DISABLED=true"}

// s3Server starts an S3 server and uses its bucket for the site.
func s3Server(s *site) error {
	for _, e := range s3Environment {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	port, err := freeport.Find()
	if err != nil {
		return err
	}
	data, side := filepath.Join(s.dir, "s3"), filepath.Join(s.dir, "side")
	if err := errors.Join(os.MkdirAll(filepath.Join(data, "results"), 0o700), os.MkdirAll(side, 0o700)); err != nil {
		return err
	}
	cmd := exec.Command("versitygw", "--port", "127.0.0.1:"+port, "--access", "bench", "--secret", "bench-secret", "--quiet", "posix", "--sidecar", side, data)
	if err := s.launch(cmd, "s3"); err != nil {
		return fmt.Errorf("%w (go build -C tools/versitygw -o DIR/versitygw github.com/versity/versitygw/cmd/versitygw, with DIR on PATH)", err)
	}
	s.bucket = "s3://results/bench?region=us-east-1&path_style=true&endpoint=http://127.0.0.1:" + port
	return s.until("the S3 server", 10*time.Second, func() (bool, error) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return false, s.alive()
		}
		return true, conn.Close()
	})
}

func (s *site) launch(cmd *exec.Cmd, name string) error {
	p, err := start(cmd, filepath.Join(s.dir, fmt.Sprintf("%s-%d.log", name, len(s.processes))))
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return err
}

// workers starts neuronmill workers as separate processes.
func (s *site) workers(n int, kind tasks.Kind, limit int, args ...string) error {
	for range n {
		program, command := s.binary, []string{"worker", "--kinds", string(kind), "--log-level", "warn"}
		if profile := os.Getenv("BENCH_PROFILE"); profile != "" {
			program, command[0] = s.self, "ours"
			command = append(command, "--profile", profile+"-"+filepath.Base(s.dir))
		}
		cmd := exec.Command(program, append(command, args...)...)
		cmd.Env = append(os.Environ(),
			"NEURONMILL_REDIS_URL=redis://127.0.0.1:"+s.port+"/0",
			"NEURONMILL_STORE_URL="+s.bucket,
			"NEURONMILL_LIMITS="+string(kind)+"="+strconv.Itoa(limit),
			"CLOUDFLARE_ACCOUNT_ID=0123456789abcdef0123456789abcdef", "CLOUDFLARE_API_TOKEN=bench", "CLOUDFLARE_BASE_URL="+s.url,
		)
		if err := s.launch(cmd, "worker"); err != nil {
			return err
		}
	}
	return nil
}

// stopWorkers stops all processes except the servers and returns the CPU time they used.
func (s *site) stopWorkers() time.Duration {
	workers := s.processes[min(s.servers, len(s.processes)):]
	stopAll(workers)
	var used time.Duration
	for _, p := range workers {
		used += p.cpu()
	}
	s.processes = s.processes[:len(s.processes)-len(workers)]
	return used
}

// alive returns an error when a process has ended unexpectedly.
func (s *site) alive() error {
	for _, p := range s.processes {
		if err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) close() {
	if len(s.processes) > 0 {
		s.stopWorkers() // Redis still runs, so that they can write to it
		stopAll(s.processes)
	}
	if s.redis != nil {
		_ = s.redis.Close()
	}
	if s.server != nil {
		_ = s.server.Close()
	}
	// The folder stays until the lab closes: after many deletions a file system creates
	// new files slowly for a while.
}

// client returns a producer; with a bucket each task has a pending record in it.
func (s *site) client(bucket bool) *tasks.Client {
	c := tasks.Config{Redis: s.redis, AllowUnknownModel: true}
	if bucket {
		c.Store = s.store
	}
	return tasks.NewClient(c)
}

// fill enqueues n tasks and returns their ids.
func (s *site) fill(c *tasks.Client, n int, request func(i int) tasks.Request) ([]string, error) {
	ids := make([]string, 0, n)
	for len(ids) < n {
		some := make([]tasks.Request, min(1000, n-len(ids)))
		for i := range some {
			some[i] = request(len(ids) + i)
		}
		for _, out := range c.EnqueueMany(s.ctx, some) {
			if out.Err != nil {
				return nil, out.Err
			}
			ids = append(ids, out.ID)
		}
	}
	return ids, nil
}

// translate requests one translation with a unique text.
func translate(text string, lane tasks.Lane) tasks.Request {
	return tasks.Request{
		Payload: tasks.Translation{Text: text, TargetLang: "es"},
		Options: []tasks.Option{tasks.WithLane(lane)},
	}
}

// waiting counts the tasks of a queue in all states.
func (s *site) waiting(queue string) (int64, error) {
	prefix := "asynq:{" + queue + "}:"
	pipe := s.redis.Pipeline()
	lengths := []*redis.IntCmd{
		pipe.LLen(s.ctx, prefix+"pending"), pipe.LLen(s.ctx, prefix+"active"),
		pipe.ZCard(s.ctx, prefix+"retry"), pipe.ZCard(s.ctx, prefix+"scheduled"),
	}
	if _, err := pipe.Exec(s.ctx); err != nil {
		return 0, err
	}
	var sum int64
	for _, l := range lengths {
		sum += l.Val()
	}
	return sum, nil
}

// drained waits until a queue is empty.
func (s *site) drained(queue string, most time.Duration) error {
	return s.until("an empty "+queue, most, func() (bool, error) {
		n, err := s.waiting(queue)
		if err == nil {
			err = s.alive()
		}
		return n == 0, err
	})
}
