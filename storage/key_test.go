package storage

import (
	"path"
	"strings"
	"testing"
)

// A key that passes is a path below wherever it is put, and stays the key it was.
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
