package storage

import (
	"path"
	"strings"
	"testing"
)

// A valid key is a path below any folder it is joined to, and stays unchanged.
func FuzzCheckKey(f *testing.F) {
	for _, key := range []string{"default/tasks/t_1/result.json", "", "../x", "a//b", "a/./b", "a\x00b", "a\xff", "/a", "a/", "a/..", strings.Repeat("k", 1025)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if CheckKey(key) != nil {
			return
		}
		if under := path.Join("/top", key); under != "/top/"+key {
			t.Fatalf("%q becomes %q", key, under)
		}
	})
}
