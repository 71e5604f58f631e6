package storage

import (
	"context"
	"net/http"
	"time"
)

// Presigner is a Store that makes links, with which others read and write objects without
// keys of the store. A link is a secret until it ends.
type Presigner interface {
	// PresignGet returns a link that reads an object. It does not check that the object
	// exists.
	PresignGet(ctx context.Context, key string, valid time.Duration) (Link, error)
	// PresignCreate returns a link that writes one object of exactly size bytes, once: it
	// does not replace an object.
	PresignCreate(ctx context.Context, key string, size int64, contentType string, valid time.Duration) (Link, error)
}

// Link is a request that anybody may send until Expires.
type Link struct {
	Method  string
	URL     string
	Header  http.Header // must be sent as they are; without Host and Content-Length
	Expires time.Time
}
