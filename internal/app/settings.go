// Package app holds the settings, opens Redis, the bucket and Workers AI, and handles
// signals, exit codes and the log for the commands.
package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/neuronmill/neuronmill/internal/limits"
)

// Settings are shared by all commands. Each flag also has an environment variable.
type Settings struct {
	RedisURL string        `name:"redis-url" env:"NEURONMILL_REDIS_URL,REDIS_URL" default:"embedded:" placeholder:"URL" help:"redis://, redis-sentinel://h1:p1/master, redis-cluster://h1:p1,h2:p2 (each with TLS as rediss...), or embedded:, one of our own, by default" group:"settings"`
	StoreURL string        `name:"store-url" env:"NEURONMILL_STORE_URL" placeholder:"URL" help:"file:/path, or s3://bucket/prefix with ?endpoint=URL and &path_style=true where needed; a folder below the data folder by default" group:"settings"`
	DataDir  string        `name:"data-dir" env:"NEURONMILL_DATA_DIR" default:"./neuronmill-data" placeholder:"DIR" help:"where the embedded defaults keep things; ./neuronmill-data by default" group:"settings"`
	Limits   limits.Limits `name:"limits" env:"NEURONMILL_LIMITS" placeholder:"NAME=N,..." help:"requests a minute by kind or model, over the catalogue's: embedding=3000,@cf/baai/bge-m3=600; embedding:total=3000 is a ceiling over all models of a kind" group:"settings"`
	LogLevel string        `name:"log-level" env:"NEURONMILL_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"debug, info (the default), warn or error" group:"settings"`

	WebhookAllow fetch.Networks `name:"webhook-allow" env:"NEURONMILL_WEBHOOK_ALLOW" placeholder:"NETWORK,..." help:"private networks that webhooks may reach, by http:// too: 10.0.0.0/8,127.0.0.1; none by default" group:"settings"`

	AccountID string `kong:"-"`
	Token     Secret `kong:"-"`
	BaseURL   string `kong:"-"`
	Gateway   string `kong:"-"`

	Emulator      string `kong:"-"` // its URL, used when no account is set; empty means in this process
	EmulatorToken Secret `kong:"-"`

	WebhookSecret Secret `kong:"-"`
	PublicURL     string `kong:"-"` // begins the links in webhooks

	Calls int `kong:"-"` // most concurrent calls of Workers AI in this process; it sizes the Redis pool
}

// PoolSize returns the most connections to a Redis server, opened on demand. A call needs
// Redis for a small part of its time, so four calls share a connection. Unlike the
// library's default, the size does not depend on the number of processors.
func (s Settings) PoolSize() int { return min(32+s.Calls/4, 1000) }

// Secret is text that is masked when printed.
type Secret string

// String masks the text.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString masks the text for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText masks the text in logs and JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// FromEnvironment reads the settings that have no flag, because flags are visible in
// process lists.
func (s *Settings) FromEnvironment() {
	s.AccountID = strings.TrimSpace(os.Getenv("CLOUDFLARE_ACCOUNT_ID"))
	s.Token = Secret(strings.TrimSpace(os.Getenv("CLOUDFLARE_API_TOKEN")))
	s.BaseURL = strings.TrimSpace(os.Getenv("CLOUDFLARE_BASE_URL"))
	s.Gateway = strings.TrimSpace(os.Getenv("CLOUDFLARE_AI_GATEWAY"))
	s.Emulator = strings.TrimSpace(os.Getenv("NEURONMILL_EMULATOR_URL"))
	s.WebhookSecret = Secret(strings.TrimSpace(os.Getenv("NEURONMILL_WEBHOOK_SECRET")))
	s.PublicURL = strings.TrimSpace(os.Getenv("NEURONMILL_PUBLIC_URL"))
	s.EmulatorToken = Secret(strings.TrimSpace(os.Getenv("NEURONMILL_EMULATOR_TOKEN")))
}

// Check reports all invalid settings by name.
func (s Settings) Check() error {
	var errs []error
	if (s.AccountID == "") != (s.Token == "") {
		errs = append(errs, errors.New("CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN belong together: set both, or neither to use the emulator"))
	}
	if strings.ContainsAny(s.AccountID, "/?#% ") {
		errs = append(errs, errors.New("CLOUDFLARE_ACCOUNT_ID is no account id: it is 32 hexadecimal digits"))
	}
	for name, url := range map[string]string{"CLOUDFLARE_BASE_URL": s.BaseURL, "NEURONMILL_EMULATOR_URL": s.Emulator, "NEURONMILL_PUBLIC_URL": s.PublicURL} {
		if url != "" && !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
			errs = append(errs, errors.New(name+" must begin with http:// or https://"))
		}
	}
	return errors.Join(errs...)
}

// Store returns the bucket's URL or its default.
func (s Settings) Store() string {
	if s.StoreURL != "" {
		return s.StoreURL
	}
	return "file:" + filepath.Join(s.DataDir, "bucket")
}
