package storage

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultTenant is the first segment of all keys of a client whose settings name no tenant.
const DefaultTenant = "default"

// CheckKey returns an error that wraps ErrInvalidKey if a key is not valid. The limit of
// 1024 bytes is that of S3.
func CheckKey(key string) error {
	fault := func(why string) error { return fmt.Errorf("%w: %s", ErrInvalidKey, why) }
	switch {
	case key == "":
		return fault("it is empty")
	case len(key) > 1024:
		return fault(fmt.Sprintf("it has %d bytes, more than 1024", len(key)))
	case !utf8.ValidString(key):
		return fault("it is not UTF-8")
	case strings.ContainsFunc(key, unicode.IsControl):
		return fault("it holds control characters")
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fault("it has an empty, \".\" or \"..\" segment")
		}
	}
	return nil
}
