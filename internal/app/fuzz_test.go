package app

import (
	"strings"
	"testing"
)

// A URL is parsed or refused. An error never contains a password.
func FuzzRedisURL(f *testing.F) {
	for _, url := range []string{
		"redis://127.0.0.1:6379/0", "rediss://u:hunter2@h:1/x", "redis-sentinel://:hunter2@h1:1,h2:2/master?db=1",
		"redis-cluster://h1:1,h2:2", "redis-cluster://:x?hunter2@h", "rediss-sentinel://h/m?sentinel_password=hunter2&db=x", "redis://:x?hunter2@h", "redis://:hunter2@h:x/0", "redis-cluster://u:hunter2@", "embedded:", "unix:///s?db=9",
	} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		r, err := dial(url, 1)
		if err == nil {
			if strings.Contains(r.Description, "hunter2") && strings.Contains(url, ":hunter2@") && strings.Count(url, "hunter2") == 1 {
				t.Fatalf("%q shows its password: %s", url, r.Description)
			}
			_ = r.Close()
			return
		}
		// A parameter may have this name; a password must not be shown.
		if strings.Contains(err.Error(), "hunter2") && (strings.Contains(url, "@") || strings.Contains(url, "=hunter2")) {
			t.Fatalf("%q: %v", url, err)
		}
	})
}
