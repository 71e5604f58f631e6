package s3store_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/require"
)

// strict is a proxy before an S3 server. It refuses the features that Cloudflare R2
// refuses according to its S3 compatibility page: streaming signatures and trailers,
// tags, ACLs, locks and parts of unequal size. No server available for tests does so.
func strict(t *testing.T, backend string) string {
	door := realtest.NewDoor(t, strings.TrimPrefix(backend, "http://"))
	var parts partSizes
	door.Set(func(_ int, w http.ResponseWriter, r *http.Request, server http.Handler) {
		if why := refused(r); why != "" {
			http.Error(w, "<Error><Code>NotImplemented</Code><Message>"+why+"</Message></Error>", http.StatusNotImplemented)
			return
		}
		if !parts.equal(r) {
			http.Error(w, "<Error><Code>InvalidPart</Code><Message>All non-trailing parts must have the same length.</Message></Error>", http.StatusBadRequest)
			return
		}
		server.ServeHTTP(w, r)
	})
	return "http://" + door.Addr
}

func refused(r *http.Request) string {
	if strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") || strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") {
		return "STREAMING payloads are not implemented"
	}
	for name := range r.Header {
		if name == "Content-Md5" && r.URL.Query().Has("delete") {
			continue // the only checksum that all services support there
		}
		lower := strings.ToLower(name)
		for _, part := range []string{"tagging", "x-amz-acl", "x-amz-grant", "object-lock", "aws-kms", "request-payer", "expected-bucket-owner", "website-redirect", "x-amz-trailer", "content-md5", "x-amz-sdk-checksum"} {
			if strings.Contains(lower, part) {
				return "header " + name + " is not implemented"
			}
		}
	}
	return ""
}

// partSizes records the part sizes of each upload.
type partSizes struct {
	mu    sync.Mutex
	sizes map[string][]int64
}

// equal reports whether all parts of a completed upload have equal size, except the last.
func (p *partSizes) equal(r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := r.URL.Query().Get("uploadId")
	if p.sizes == nil {
		p.sizes = map[string][]int64{}
	}
	switch {
	case id != "" && r.Method == http.MethodPut:
		p.sizes[id] = append(p.sizes[id], r.ContentLength)
	case id != "" && r.Method == http.MethodPost:
		sizes := p.sizes[id]
		for i, n := range sizes {
			if i < len(sizes)-1 && n != sizes[0] || n > sizes[0] {
				return false
			}
		}
	}
	return true
}

func TestTheStrictProxyRefusesTagsAndACLs(t *testing.T) {
	endpoint := strict(t, "http://"+realtest.S3Server(t).Addr)
	loaded, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("us-east-1"), config.WithRetryMaxAttempts(1))
	require.NoError(t, err)
	client := s3.NewFromConfig(loaded, func(o *s3.Options) { o.BaseEndpoint, o.UsePathStyle = &endpoint, true })
	put := func(in *s3.PutObjectInput) error {
		in.Bucket, in.Key = aws.String(realtest.Bucket), aws.String("k")
		_, err := client.PutObject(t.Context(), in)
		return err
	}
	require.ErrorContains(t, put(&s3.PutObjectInput{Body: strings.NewReader("x"), Tagging: aws.String("a=b")}), "NotImplemented")
	require.ErrorContains(t, put(&s3.PutObjectInput{Body: strings.NewReader("x"), ACL: types.ObjectCannedACLPrivate}), "NotImplemented")
	require.NoError(t, put(&s3.PutObjectInput{Body: strings.NewReader("x")}))
}
