package fsstore

import (
	"fmt"
	"net/url"
	"strings"
)

const typeSuffix = "%.type" // "%" followed by no hex digits: no escaped name ends so

// escape writes a segment as a file name: letters, digits and a few marks as they are,
// the rest as %XX, and so a dot that it begins with.
func escape(segment string) string {
	var b strings.Builder
	for i := range len(segment) {
		c := segment[i]
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.@+=,", c) >= 0
		if plain && (c != '.' || i > 0) {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func unescape(name string) (string, error) { return url.PathUnescape(name) }
