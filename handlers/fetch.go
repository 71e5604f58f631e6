package handlers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
)

// audioLimit is the most bytes that are fetched from a URL.
const audioLimit = 100 << 20

// fetch opens the audio at a URL. The size is -1 when the server does not say.
func (h *Handlers) fetch(ctx context.Context, url string) (io.ReadCloser, int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, &tasks.Failure{Code: "url_not_allowed", Message: "the audio's url is not valid"}
	}
	resp, err := h.cfg.Fetch.Do(req)
	if errors.Is(err, errNotPublic) {
		return nil, 0, &tasks.Failure{Code: "url_not_allowed", Message: "the audio's url leads to an address that is not public"}
	}
	if err != nil {
		// The error's own text holds the URL, which may be a signed one.
		return nil, 0, &fetchError{cause: err}
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			return nil, 0, &fetchError{cause: fmt.Errorf("status %d", resp.StatusCode)}
		}
		return nil, 0, &tasks.Failure{Code: "fetch_failed", Message: fmt.Sprintf("the audio's server answered with status %d", resp.StatusCode)}
	}
	if resp.ContentLength > audioLimit {
		resp.Body.Close()
		return nil, 0, &tasks.Failure{Code: "input_too_large", Message: fmt.Sprintf("the audio has %d bytes, more than %d", resp.ContentLength, int64(audioLimit))}
	}
	return http.MaxBytesReader(nil, resp.Body, audioLimit), resp.ContentLength, nil
}

// fetchError is an audio server that could not be reached or is not well.
type fetchError struct{ cause error }

func (e *fetchError) Error() string { return "the audio's server did not answer" }
func (e *fetchError) Unwrap() error { return e.cause }

var errNotPublic = errors.New("address is not public")

// publicClient only connects to public addresses, judged after the name was resolved,
// and never through a proxy: a task must not become a way into the worker's network.
func publicClient() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !public(at.Addr().Unmap()) || at.Port() != 443 {
			return errNotPublic
		}
		return nil
	}}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, DisableKeepAlives: true,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Scheme != "https" {
				return errNotPublic
			}
			return nil
		},
	}
}

// special are the blocks that no public server has, beyond what netip knows: the IANA
// special-purpose registries for IPv4 and IPv6.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)

// globalV6 is the only part of IPv6 that is handed out for public use.
var globalV6 = netip.MustParsePrefix("2000::/3")

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
