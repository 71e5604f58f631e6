// Package fetch downloads the input that a task names by URL. It only connects to public
// servers, so that a task gives no access to the worker's network. Limits of size and time
// keep a slow server from occupying a worker.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// Limits bound a download. The zero value of a field means its default.
type Limits struct {
	Bytes int64         // most bytes of the body; 100 MiB
	Total time.Duration // from the first request to the last byte; 10 minutes
	Stall time.Duration // without a byte; 30 s
}

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 100 << 20
	}
	if l.Total == 0 {
		l.Total = 10 * time.Minute
	}
	if l.Stall == 0 {
		l.Stall = 30 * time.Second
	}
	return l
}

const redirects = 3 // most redirects of a download

// The permanent failures of a download. Each such error wraps one of them.
var (
	ErrNotAllowed = errors.New("the url is not allowed")
	ErrRefused    = errors.New("the server refuses the url")
	ErrTooLarge   = errors.New("the file is too large")
)

// UnreachableError is a temporary failure: the server did not answer, broke off, or
// reported an error of its own. A later attempt may succeed. The text leaves out the URL,
// which may be signed.
type UnreachableError struct {
	what  string
	cause error
}

func (e *UnreachableError) Error() string { return e.what }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.cause }

// Client downloads files.
type Client struct {
	http   *http.Client
	limits Limits
}

// New makes a Client that sends its requests with a copy of c and applies its own rules
// for redirects. A nil c means an HTTP client that only connects to public addresses.
func New(c *http.Client, l Limits) *Client {
	if c == nil {
		c = &http.Client{Transport: PublicTransport()}
	}
	own := *c
	own.Jar, own.Timeout = nil, 0
	own.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > redirects {
			return fmt.Errorf("%w: it is redirected more than %d times", ErrNotAllowed, redirects)
		}
		req.Header.Del("Referer") // the previous URL may be signed
		return Allowed(req.URL)
	}
	return &Client{&own, l.withDefaults()}
}

// Allowed checks a URL before the request. The transport checks the address of a host name
// when it connects.
func Allowed(u *url.URL) error {
	switch address, err := netip.ParseAddr(u.Hostname()); {
	case u.Scheme != "https":
		return fmt.Errorf("%w: it does not begin with https://", ErrNotAllowed)
	case u.Hostname() == "":
		return fmt.Errorf("%w: it names no host", ErrNotAllowed)
	case u.User != nil:
		return fmt.Errorf("%w: it holds a user name or password", ErrNotAllowed)
	case u.Port() != "" && u.Port() != "443":
		return fmt.Errorf("%w: its port is not 443", ErrNotAllowed)
	case err == nil && !public(address.Unmap()):
		return errNotPublic
	}
	return nil
}

// Open requests a file. A read beyond a limit fails with ErrTooLarge or
// *UnreachableError. The caller closes the body.
func (c *Client) Open(ctx context.Context, raw string) (io.ReadCloser, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not a valid URL", ErrNotAllowed)
	}
	if err := Allowed(u); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.limits.Total, errTotal)
	ctx, stop := context.WithCancelCause(ctx)
	end := func() { stop(nil); cancel() }
	stall := time.AfterFunc(c.limits.Stall, func() { stop(errStall) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		end()
		return nil, fmt.Errorf("%w: it is not a valid URL", ErrNotAllowed)
	}
	// The client would unpack a compressed body, to any size.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "neuronmill")
	resp, err := c.http.Do(req)
	if err != nil {
		stall.Stop()
		defer end()
		return nil, c.failed(ctx, err)
	}
	if err := c.accept(resp); err != nil {
		stall.Stop()
		resp.Body.Close()
		end()
		return nil, err
	}
	return &body{ReadCloser: resp.Body, ctx: ctx, c: c, left: c.limits.Bytes, stall: stall, end: end}, nil
}

var (
	errTotal = errors.New("the download takes too long")
	errStall = errors.New("no byte came for too long")
)

// failed classifies the error of a request or read.
func (c *Client) failed(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(err, ErrNotAllowed):
		return fmt.Errorf("%w", unwrapTo(err))
	case errors.Is(cause, errTotal):
		return &UnreachableError{fmt.Sprintf("the server did not deliver the file within %v", c.limits.Total), cause}
	case errors.Is(cause, errStall):
		return &UnreachableError{fmt.Sprintf("the server sent nothing for %v", c.limits.Stall), cause}
	case cause != nil:
		return cause // the caller's own
	}
	return &UnreachableError{"the server did not answer, or broke off: " + kindOf(err), err}
}

// unwrapTo removes the wrappers of the HTTP client, whose text contains the URL.
func unwrapTo(err error) error {
	for next := err; next != nil; next = errors.Unwrap(next) {
		if _, ok := next.(*url.Error); ok { //nolint:errorlint // the loop unwraps
			err = errors.Unwrap(next)
		}
		if op, ok := next.(*net.OpError); ok { //nolint:errorlint // the same
			err = op.Err
		}
	}
	return err
}

// Reason describes the failure of a request without addresses or URLs.
func Reason(err error) string {
	if errors.Is(err, ErrNotAllowed) {
		return unwrapTo(err).Error()
	}
	return kindOf(err)
}

// kindOf describes a connection failure without addresses or URLs.
func kindOf(err error) string {
	var (
		dns   *net.DNSError
		op    *net.OpError
		errno syscall.Errno
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "its name is not known"
	case errors.As(err, &dns):
		return "its name could not be looked up"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "the connection ended early"
	case errors.As(err, &op):
		return op.Op + " failed"
	}
	if timeout, ok := err.(interface{ Timeout() bool }); ok && timeout.Timeout() {
		return "it took too long"
	}
	return "the connection failed"
}

// accept checks the status and headers of a response.
func (c *Client) accept(resp *http.Response) error {
	switch status := resp.StatusCode; {
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status == http.StatusTooEarly:
		return &UnreachableError{fmt.Sprintf("the server answered with status %d", status), nil}
	case status != http.StatusOK:
		return fmt.Errorf("%w: it answered with status %d", ErrRefused, status)
	case resp.Header.Get("Content-Encoding") != "" && resp.Header.Get("Content-Encoding") != "identity":
		return fmt.Errorf("%w: it sends the file compressed, though it was asked not to", ErrRefused)
	case resp.ContentLength > c.limits.Bytes:
		return fmt.Errorf("%w: it has %d bytes, more than %d", ErrTooLarge, resp.ContentLength, c.limits.Bytes)
	}
	return nil
}

// body is a running download.
type body struct {
	io.ReadCloser
	ctx   context.Context
	c     *Client
	left  int64
	stall *time.Timer
	end   func()
}

// Read implements io.Reader. Only the time that Read itself waits counts as a stall.
func (b *body) Read(p []byte) (int, error) {
	b.stall.Reset(b.c.limits.Stall)
	defer b.stall.Stop()
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		return int(b.left), fmt.Errorf("%w: it has more than %d bytes", ErrTooLarge, b.c.limits.Bytes)
	}
	b.left -= int64(n)
	// A download that this client ended may look like the end of the file.
	if err != nil && (b.ctx.Err() != nil || !errors.Is(err, io.EOF)) {
		err = b.c.failed(b.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.stall.Stop()
	defer b.end()
	return b.ReadCloser.Close()
}

var errNotPublic = fmt.Errorf("%w: it leads to an address that is not public", ErrNotAllowed)

// PublicTransport returns a transport that only connects to public addresses, checked
// after the name was resolved, and never uses a proxy.
func PublicTransport() *http.Transport {
	return transport(func(at netip.AddrPort) error {
		if !publicHTTPS(at) {
			return errNotPublic
		}
		return nil
	})
}

func publicHTTPS(at netip.AddrPort) bool { return at.Port() == 443 && public(at.Addr()) }

// transport returns a transport that asks judge about each resolved address before it
// connects.
func transport(judge func(netip.AddrPort) error) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return errNotPublic
		}
		return judge(netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	}}
	return &http.Transport{
		DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
	}
}

// special are non-public address blocks that netip does not detect, from the IANA
// special-purpose registries for IPv4 and IPv6.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)

// globalV6 is the only part of IPv6 that is allocated for public use.
var globalV6 = netip.MustParsePrefix("2000::/3")

// public reports whether an address belongs to the public internet.
func public(a netip.Addr) bool {
	if a.IsPrivate() || a.IsLoopback() || !a.IsGlobalUnicast() || a.Is6() && !globalV6.Contains(a) {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}
