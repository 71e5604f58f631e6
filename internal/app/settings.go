// Package app opens what the settings name (Redis, the bucket, Workers AI), and
// stands between the operating system and the commands.
package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/limit"
)

// Settings are shared by all commands. Each flag has its environment twin.
type Settings struct {
	RedisURL string `name:"redis-url" env:"NEURONMILL_REDIS_URL,REDIS_URL" default:"embedded:" help:"redis://, rediss://, redis-sentinel://h1:p1,h2:p2/master, redis-cluster://h1:p1,h2:p2 or embedded:" group:"settings"`
	StoreURL string `name:"store-url" env:"NEURONMILL_STORE_URL" help:"file:/path or s3://bucket/prefix?endpoint=URL&region=auto&path_style=true; a folder below the data folder by default" group:"settings"`
	DataDir  string `name:"data-dir" env:"NEURONMILL_DATA_DIR" default:"./neuronmill-data" help:"where the embedded defaults keep things" group:"settings"`
	Limits   Limits `name:"limits" env:"NEURONMILL_LIMITS" help:"requests a minute by kind or model, over the catalogue's: embedding=3000,@cf/baai/bge-m3=600; embedding:total=3000 is a ceiling over all models of a kind" group:"settings"`
	LogLevel string `name:"log-level" env:"NEURONMILL_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error" group:"settings"`

	AccountID string `kong:"-"`
	Token     Secret `kong:"-"`
	BaseURL   string `kong:"-"`
	Gateway   string `kong:"-"`

	Emulator      string `kong:"-"` // where it answers while no account is set; empty means in this process
	EmulatorToken Secret `kong:"-"`
}

// Secret is text that does not show itself.
type Secret string

// String hides the text.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString does the same for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText does the same for logs and JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// FromEnvironment reads what has no flag, since flags show in lists of processes.
func (s *Settings) FromEnvironment() {
	s.AccountID = strings.TrimSpace(os.Getenv("CLOUDFLARE_ACCOUNT_ID"))
	s.Token = Secret(strings.TrimSpace(os.Getenv("CLOUDFLARE_API_TOKEN")))
	s.BaseURL = strings.TrimSpace(os.Getenv("CLOUDFLARE_BASE_URL"))
	s.Gateway = strings.TrimSpace(os.Getenv("CLOUDFLARE_AI_GATEWAY"))
	s.Emulator = strings.TrimSpace(os.Getenv("NEURONMILL_EMULATOR_URL"))
	s.EmulatorToken = Secret(strings.TrimSpace(os.Getenv("NEURONMILL_EMULATOR_TOKEN")))
}

// Check reports everything wrong with the settings, by name.
func (s Settings) Check() error {
	var errs []error
	if (s.AccountID == "") != (s.Token == "") {
		errs = append(errs, errors.New("CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN belong together: set both, or neither to use the emulator"))
	}
	if strings.ContainsAny(s.AccountID, "/?#% ") {
		errs = append(errs, errors.New("CLOUDFLARE_ACCOUNT_ID is no account id: it is 32 hexadecimal digits"))
	}
	for name, url := range map[string]string{"CLOUDFLARE_BASE_URL": s.BaseURL, "NEURONMILL_EMULATOR_URL": s.Emulator} {
		if url != "" && !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
			errs = append(errs, errors.New(name+" must begin with http:// or https://"))
		}
	}
	return errors.Join(errs...)
}

// Store is the bucket's URL with its default.
func (s Settings) Store() string {
	if s.StoreURL != "" {
		return s.StoreURL
	}
	return "file:" + filepath.Join(s.DataDir, "bucket")
}

// Limits are requests a minute by kind or model id.
type Limits map[string]int

// UnmarshalText reads "embedding=3000,@cf/baai/bge-m3=600".
func (l *Limits) UnmarshalText(text []byte) error {
	*l = Limits{}
	for part := range strings.SplitSeq(string(text), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, figure, ok := strings.Cut(part, "=")
		n, err := strconv.Atoi(figure)
		if !ok || err != nil || n < 0 || n > 1_000_000 {
			return fmt.Errorf("limits: %q is not NAME=REQUESTS_A_MINUTE", part)
		}
		ofKind := strings.TrimSuffix(name, limit.TotalOf(""))
		if _, model := catalogue.Find(name); !model && catalogue.Default(ofKind).ID == "" && !strings.HasPrefix(name, "@") {
			return fmt.Errorf("limits: %q is neither a kind, KIND:total nor a model", name)
		}
		(*l)[name] = n
	}
	return nil
}

// Pace is the pace of a model: its own figure, its kind's, the catalogue's. A model
// that none of them knows gets the lowest, 20.
func (l Limits) Pace(model, kind string) limit.Pace {
	for _, name := range []string{model, kind} {
		if n, ok := l[name]; ok {
			return limit.Pace{PerMinute: n, Source: "settings"}
		}
	}
	if m, ok := catalogue.Find(model); ok && m.PerMinute > 0 {
		return limit.Pace{PerMinute: m.PerMinute, Source: "catalogue"}
	}
	return limit.Pace{PerMinute: 20, Source: "catalogue"}
}

// Total is the ceiling over all models of a kind, 0 when there is none.
func (l Limits) Total(kind string) int { return l[limit.TotalOf(kind)] }
