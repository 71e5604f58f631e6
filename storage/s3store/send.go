package s3store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// operation is a method of the SDK's client.
type operation[In, Out any] func(context.Context, *In, ...func(*s3.Options)) (*Out, error)

// send calls an S3 operation in the region that the service named earlier. If the service
// now names another region and none is configured, send repeats the call there. Its
// errors include what recorder noted about the HTTP requests.
func send[In, Out any](ctx context.Context, s *Store, op operation[In, Out], in *In, options ...func(*s3.Options)) (*Out, error) {
	met := &exchange{}
	ctx = context.WithValue(ctx, exchangeKey{}, met)
	for try := 1; ; try++ {
		region := *s.region.Load()
		out, err := op(ctx, in, append(options, func(o *s3.Options) { o.Region = region })...)
		if err == nil {
			return out, nil
		}
		if try == 1 && s.automatic && codeOf(err) == badRegion && met.region != "" && met.region != region {
			named := met.region
			s.region.Store(&named)
			rewind(in)
			continue
		}
		return nil, &failure{*met, err}
	}
}

// rewind rewinds a body so that it can be sent again.
func rewind(in any) {
	var body io.Reader
	switch in := in.(type) {
	case *s3.PutObjectInput:
		body = in.Body
	case *s3.UploadPartInput:
		body = in.Body
	}
	if body, ok := body.(io.Seeker); ok {
		_, _ = body.Seek(0, io.SeekStart) // seeking in memory or in a section cannot fail
	}
}

// failure is the error of an operation.
type failure struct {
	exchange
	err error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// mayBeDone reports whether the service may have executed a failed operation.
func mayBeDone(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.unknown
}

// regionOf returns the region that the service named in its refusal, or "".
func regionOf(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.region
	}
	return ""
}

// exchange describes the HTTP requests of one operation. The SDK sends them one after the
// other.
type exchange struct {
	unknown bool   // the service may have executed a request; relevant if the operation failed
	region  string // the region that the service named in a refusal
}

type exchangeKey struct{}

// recorder records the outcome of each HTTP request in the context's exchange.
type recorder struct {
	s3.HTTPClient
}

// Do sends a request.
func (c recorder) Do(r *http.Request) (*http.Response, error) {
	resp, err := c.HTTPClient.Do(r)
	if met, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		met.note(resp, err)
	}
	return resp, err
}

func (x *exchange) note(resp *http.Response, err error) {
	if err != nil {
		dial, ok := errors.AsType[*net.OpError](err)
		if !ok || dial.Op != "dial" { // nothing was sent without a connection
			x.unknown = true
		}
		return
	}
	switch {
	case resp.StatusCode < 300 || resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestTimeout:
		x.unknown = true // a success counts too: the SDK may fail to read it, or find an error in it
	case resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusMovedPermanently:
		if region := regionIn(resp); region != "" {
			x.region = region
		}
	}
}

// regionElement matches the region in the XML of a refusal. The SDK discards it.
var regionElement = regexp.MustCompile(`<Region>([A-Za-z0-9_-]{1,64})</Region>`)

// regionIn returns the region in a refusal. The body stays readable.
func regionIn(resp *http.Response) string {
	if region := resp.Header.Get("X-Amz-Bucket-Region"); region != "" {
		return region
	}
	start, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // MultiReader repeats a read error for the next reader
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), resp.Body), resp.Body}
	if match := regionElement.FindSubmatch(start); match != nil {
		return string(match[1])
	}
	return ""
}
