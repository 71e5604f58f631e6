package s3store

import (
	"strings"
	"testing"
)

func FuzzParseURL(f *testing.F) {
	for _, url := range []string{
		"s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=auto&path_style=true", "s3://", "s3://b/../x", "s3://b?path_style=perhaps", "s3://b/a//b", "file:/x",
	} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		c, err := ParseURL(url)
		if err != nil {
			return
		}
		if c.Bucket == "" || strings.HasPrefix(c.Prefix, "/") || strings.HasSuffix(c.Prefix, "/") {
			t.Fatalf("%q gives bucket %q, prefix %q", url, c.Bucket, c.Prefix)
		}
	})
}
