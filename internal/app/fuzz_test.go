package app

import (
	"strings"
	"testing"
)

func FuzzLimits(f *testing.F) {
	for _, text := range []string{"embedding=3000,@cf/baai/bge-m3=600", "embedding:total=3000", "a=b", "=", "text=-1", ",,", "text=1000001"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var l Limits
		if l.UnmarshalText([]byte(text)) != nil {
			return
		}
		for name, n := range l {
			if n < 0 || n > 1_000_000 || name == "" {
				t.Fatalf("%q gives %q=%d", text, name, n)
			}
		}
	})
}

// A URL is understood or refused; a refusal never repeats a password.
func FuzzRedisURL(f *testing.F) {
	for _, url := range []string{
		"redis://127.0.0.1:6379/0", "rediss://u:hunter2@h:1/x", "redis-sentinel://:hunter2@h1:1,h2:2/master?db=1",
		"redis-cluster://h1:1,h2:2", "redis://:hunter2@h:x/0", "redis-cluster://u:hunter2@", "embedded:", "unix:///s?db=9",
	} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		r, err := dial(url)
		if err == nil {
			if strings.Contains(r.Description, "hunter2") && strings.Contains(url, ":hunter2@") && strings.Count(url, "hunter2") == 1 {
				t.Fatalf("%q shows its password: %s", url, r.Description)
			}
			_ = r.Close()
			return
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Fatalf("%q: %v", url, err)
		}
	})
}
