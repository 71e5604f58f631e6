package s3store

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// patient returns the SDK's own HTTP client with an idle timeout on its connections. The
// SDK waits for an answer forever, so a lost one would block its task forever.
func patient(d time.Duration) *awshttp.BuildableClient {
	d = cmp.Or(d, 30*time.Second)
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = t.MaxIdleConns // the default of the SDK is ten: a busy worker would dial for each write
		dial := t.DialContext
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return moving{c, d}, nil
		}
	})
}

// moving is a connection with an idle timeout: some bytes must be sent or received within
// it. A long upload is answered only at its end, so both directions count.
type moving struct {
	net.Conn
	patience time.Duration
}

func (c moving) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c moving) Write(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
