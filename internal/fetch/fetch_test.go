package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const limit = 1 << 20

// server answers for https://example.com. The returned client sends all requests to it.
func server(t *testing.T, l Limits, answer http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	client := s.Client() // trusts the server's certificate, which is for example.com
	transport := client.Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
	if l.Bytes == 0 {
		l.Bytes = limit
	}
	return New(client, l)
}

func get(t *testing.T, c *Client, url string) ([]byte, error) {
	t.Helper()
	body, err := c.Open(t.Context(), url)
	if err != nil {
		require.NotContains(t, err.Error(), "secret", "a URL may be signed")
		return nil, err
	}
	defer body.Close()
	all, err := io.ReadAll(body)
	if err != nil {
		require.NotContains(t, err.Error(), "secret")
	}
	return all, err
}

const signed = "https://example.com/a.mp3?signature=secret"

func TestAFileIsDownloadedWhole(t *testing.T) {
	file := bytes.Repeat([]byte("sound"), limit/5)
	c := server(t, Limits{}, func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "identity", r.Header.Get("Accept-Encoding"))
		_, _ = w.Write(file)
	})
	got, err := get(t, c, signed)
	require.NoError(t, err)
	require.Equal(t, file, got)
}

func TestEachStatusLeadsToItsError(t *testing.T) {
	for status, again := range map[int]bool{
		204: false, 206: false, 304: false, 400: false, 401: false, 403: false, 404: false, 410: false,
		408: true, 425: true, 429: true, 500: true, 502: true, 503: true,
	} {
		c := server(t, Limits{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		_, err := get(t, c, signed)
		require.ErrorContains(t, err, fmt.Sprint(status))
		require.Equal(t, again, errors.As(err, new(*UnreachableError)), status)
		require.Equal(t, !again, errors.Is(err, ErrRefused), status)
	}
}

func TestAFileThatIsTooLargeIsRefusedByItsHeadOrWhileItComes(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"said": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(limit+1))
			_, _ = w.Write([]byte("x"))
		},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
	} {
		_, err := get(t, server(t, Limits{}, answer), signed)
		require.ErrorIs(t, err, ErrTooLarge, name)
		require.ErrorContains(t, err, fmt.Sprint(limit), name)
	}
	got, err := get(t, server(t, Limits{}, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush() // without a Content-Length
		_, _ = w.Write(make([]byte, limit))
	}), signed)
	require.NoError(t, err, "one that is just as large as allowed")
	require.Len(t, got, limit)
}

func TestACompressedFileIsNeverUnpacked(t *testing.T) {
	realtest.Long(t)
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = zip.Write(make([]byte, limit))
	}
	require.NoError(t, zip.Close())
	c := server(t, Limits{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	})
	_, err := get(t, c, signed)
	require.ErrorIs(t, err, ErrRefused)
}

func TestAFileThatBreaksOffMayBeTriedAgain(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"shorter than said": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(make([]byte, 500))
		},
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 500))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"no answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		_, err := get(t, server(t, Limits{}, answer), signed)
		var away *UnreachableError
		require.ErrorAs(t, err, &away, name)
	}
}

func TestASlowServerEndsTheDownload(t *testing.T) {
	trickle := func(pause time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(pause):
				}
			}
		}
	}
	for name, c := range map[string]*Client{
		"in total": server(t, Limits{Total: 300 * time.Millisecond}, trickle(10*time.Millisecond)),
		"nothing":  server(t, Limits{Stall: 200 * time.Millisecond}, trickle(time.Minute)),
		"no head":  server(t, Limits{Stall: 200 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
	} {
		start := time.Now()
		_, err := get(t, c, signed)
		var away *UnreachableError
		require.ErrorAs(t, err, &away, name)
		require.Less(t, time.Since(start), 10*time.Second, name)
	}
}

func TestTheCallersContextEndsADownload(t *testing.T) {
	c := server(t, Limits{}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	gone := errors.New("cancelled by a person")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(gone) })
	_, err := c.Open(ctx, signed)
	require.ErrorIs(t, err, gone)
}

func TestRedirectsAreFollowedThreeTimesAndToHTTPSAtPublicAddressesOnly(t *testing.T) {
	target := ""
	c := server(t, Limits{}, func(w http.ResponseWriter, r *http.Request) {
		assert.Empty(t, r.Header.Get("Referer"))
		n := strings.Count(r.URL.Path, "again")
		switch {
		case r.URL.Path == "/file":
			_, _ = w.Write([]byte("sound"))
		case r.URL.Path == "/to":
			http.Redirect(w, r, target, http.StatusFound)
		case n > 1:
			http.Redirect(w, r, "https://example.com/"+strings.Repeat("again/", n-1), http.StatusMovedPermanently)
		default:
			http.Redirect(w, r, "/file", http.StatusSeeOther)
		}
	})
	got, err := get(t, c, "https://example.com/again/again/again?signature=secret")
	require.NoError(t, err)
	require.Equal(t, "sound", string(got))
	_, err = get(t, c, "https://example.com/again/again/again/again?signature=secret")
	require.ErrorIs(t, err, ErrNotAllowed)
	require.ErrorContains(t, err, "more than 3")
	for _, target = range []string{
		"http://example.com/file", "https://example.com:8443/file", "https://127.0.0.1/file", "https://[::1]/file",
		"https://169.254.169.254/latest/meta-data", "https://user:word@example.com/file", "ftp://example.com/file",
	} {
		_, err := get(t, c, "https://example.com/to?signature=secret")
		require.ErrorIs(t, err, ErrNotAllowed, target)
	}
	target = "https://example.com:443/file"
	_, err = get(t, c, "https://example.com/to")
	require.NoError(t, err)
}

func TestAURLIsCheckedBeforeItIsRequested(t *testing.T) {
	c := server(t, Limits{}, func(http.ResponseWriter, *http.Request) { panic("it was asked") })
	for _, url := range []string{
		"http://example.com/a", "https://example.com:444/a", "https:///a", "https://u@example.com/a", "://", "https://10.0.0.1/a",
	} {
		_, err := get(t, c, url)
		require.ErrorIs(t, err, ErrNotAllowed, url)
	}
}

func TestANameThatLeadsInsideIsNotDialled(t *testing.T) {
	for _, url := range []string{"https://127.0.0.1/a.mp3", "https://[::1]/a.mp3", "https://localhost/a.mp3"} {
		_, err := New(nil, Limits{}).Open(t.Context(), url)
		require.ErrorIs(t, err, ErrNotAllowed, url)
		require.ErrorContains(t, err, "not public", url)
		require.NotContains(t, err.Error(), "127.0.0.1")
	}
}

func TestOnlyPublicAddressesAreDialled(t *testing.T) {
	for _, address := range []string{
		"127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.8",
		"198.18.0.1", "192.88.99.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "203.0.113.5",
		"::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1",
		"64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "5f00::1", "::ffff:127.0.0.1", "::127.0.0.1",
	} {
		require.False(t, public(netip.MustParseAddr(address).Unmap()), address)
	}
	for _, address := range []string{"1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"} {
		require.True(t, public(netip.MustParseAddr(address).Unmap()), address)
	}
}

func TestTheDefaultTransportKeepsToThePortOfHTTPS(t *testing.T) {
	control := PublicTransport()
	for _, address := range []string{"1.1.1.1:80", "127.0.0.1:443"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := control.DialContext(ctx, "tcp", address)
		cancel()
		require.ErrorIs(t, err, ErrNotAllowed, address)
	}
}
