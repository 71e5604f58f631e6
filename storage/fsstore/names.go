package fsstore

import (
	"fmt"
	"net/url"
	"strings"
)

const (
	dirSuffix  = ".d"
	typeSuffix = "%.type" // "%" followed by no hex digits: no escaped name ends so
)

// escape writes a segment as a file name: letters, digits and a few marks as they are,
// the rest as %XX. A name that would look like a folder or begin with a dot is escaped
// at that dot.
func escape(segment string) string {
	var b strings.Builder
	for i := range len(segment) {
		c := segment[i]
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.@+=,", c) >= 0
		if c == '.' && (i == 0 || segment[i:] == dirSuffix) {
			plain = false
		}
		if plain {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func unescape(name string) (string, error) { return url.PathUnescape(name) }
