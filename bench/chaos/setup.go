package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
)

// credentials are for the S3 clients of this process and of the workers.
func credentials() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_EC2_METADATA_DISABLED=true"}
}

func (r *run) setUp(ctx context.Context) (err error) {
	if r.j, err = openJournal(r.dir); err != nil {
		return err
	}
	if r.binary == "" {
		r.binary = filepath.Join(r.dir, "neuronmill")
		build := exec.CommandContext(ctx, "go", "build", "-tags", "failpoint", "-o", r.binary, "./cmd/neuronmill")
		build.Dir = filepath.Join("..", "..") // in the program's own module, with its versions
		out, err := build.CombinedOutput()
		if err != nil {
			return fmt.Errorf("build neuronmill: %w: %s", err, out)
		}
	}
	if r.redis, err = startRedis(r.dir); err != nil {
		return err
	}
	r.closers = append(r.closers, func() { r.redis.kill() })
	s3Addr, s3, err := startS3(r.dir)
	if err != nil {
		return err
	}
	r.s3 = s3
	r.closers = append(r.closers, s3.kill)
	r.front = newBucketFront(s3Addr, r.j, r.seeded(1))
	r.provider = &provider{emulator: workersaitest.New(workersaitest.Options{Limits: limits, Latency: 150 * time.Millisecond, KeepCalls: 1 << 20, KeepBodies: 1 << 30})}
	frontAddr, err := r.listen(r.front)
	if err != nil {
		return err
	}
	providerAddr, err := r.listen(r.provider)
	if err != nil {
		return err
	}
	if err := r.connect(frontAddr, providerAddr); err != nil {
		return err
	}
	return r.makeProducer(ctx, frontAddr)
}

// listen serves HTTP on loopback until the run ends.
func (r *run) listen(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go s.Serve(l) //nolint:errcheck // ends when the server is closed
	r.closers = append(r.closers, func() { _ = s.Close() })
	return l.Addr().String(), nil
}

// connect creates the slots of the fleet, each with an edge to every server.
func (r *run) connect(front, provider string) error {
	r.fleet = &fleet{
		j: r.j, binary: r.binary, limits: limitsFlag(),
		env: append(credentials(),
			"CLOUDFLARE_ACCOUNT_ID=0123456789abcdef0123456789abcdef", "CLOUDFLARE_API_TOKEN="+canary, "NEURONMILL_DATA_DIR="+r.dir),
	}
	n := newNetwork()
	for i := range r.slots {
		s := &slot{number: i, rng: r.seeded(uint64(100 + i)), life: r.life}
		if i%3 > 0 {
			s.life = r.longLife
		}
		for _, e := range []struct {
			to   **edge
			name string
			addr string
		}{{&s.redis, "worker-redis", r.redis.addr}, {&s.store, "worker-s3", front}, {&s.ai, "worker-provider", provider}} {
			made, err := n.edge(e.name, i, e.addr)
			if err != nil {
				return err
			}
			*e.to = made
			r.edges = append(r.edges, made)
			r.closers = append(r.closers, made.proxy.Stop)
		}
		r.fleet.slots = append(r.fleet.slots, s)
	}
	made, err := n.edge("producer-redis", -1, r.redis.addr)
	if err != nil {
		return err
	}
	r.edges = append(r.edges, made)
	r.closers = append(r.closers, made.proxy.Stop)
	return nil
}

// limits are requests per minute. The emulator enforces them and the workers' gates keep
// them. They are slightly above the producer's rate, so that tasks wait at the gates.
var limits = map[string]int{"embedding": 600, "translation": 240, "text": 240, "image": 240, "transcription": 240}

func limitsFlag() string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(limits)) {
		parts = append(parts, fmt.Sprintf("%s=%d", kind, limits[kind]))
	}
	return strings.Join(parts, ",")
}

// canary is a token that must never appear in a log.
const canary = "canary-token-that-must-not-leak"

func (r *run) makeProducer(ctx context.Context, front string) error {
	for _, pair := range credentials() {
		name, value, _ := strings.Cut(pair, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	store, _, err := app.OpenStore(ctx, app.Settings{StoreURL: "s3://" + bucket + "/chaos?region=us-east-1&path_style=true&endpoint=http://" + front})
	if err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: r.edges[len(r.edges)-1].addr()})
	r.closers = append(r.closers, func() { client.Close() })
	r.store = store
	r.producer = &producer{
		client: tasks.NewClient(tasks.Config{Redis: client, Store: store}), emulator: r.provider.emulator,
		rng: r.seeded(2), j: r.j,
	}
	for quarters := 1; quarters <= 5; quarters += 2 {
		key := fmt.Sprintf("default/files/recording-%d.wav", quarters)
		if err := store.Put(ctx, key, bytes.NewReader(shortWAV(quarters)), "audio/wav"); err != nil {
			return err
		}
		r.producer.audio = append(r.producer.audio, key)
	}
	return nil
}
