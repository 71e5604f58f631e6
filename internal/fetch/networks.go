package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Networks are networks that requests may reach beside the public addresses: at any port,
// and also over plain HTTP. The zero value allows public addresses only.
//
// Link-local addresses and the metadata services of clouds are never reached, even within a
// listed network: they give credentials to any caller.
type Networks []netip.Prefix

// never are addresses that no setting allows.
var never = prefixes(
	"169.254.0.0/16", "fe80::/10", // link-local, the metadata services of most clouds
	"100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128", // other metadata services
	"0.0.0.0/8", "224.0.0.0/3", "::/128", "ff00::/8", // no single host
)

// UnmarshalText reads "10.0.0.0/8,192.168.1.5": networks, or single addresses.
func (n *Networks) UnmarshalText(text []byte) error {
	*n = nil
	for part := range strings.SplitSeq(string(text), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		network, err := netip.ParsePrefix(part)
		if address, single := netip.ParseAddr(part); single == nil && address.Zone() == "" {
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("%q is not a network like 10.0.0.0/8", part)
		}
		*n = append(*n, network)
	}
	return n.Validate()
}

// Validate reports all networks that are not valid.
func (n Networks) Validate() error {
	var errs []error
	for _, network := range n {
		switch {
		case !network.IsValid():
			errs = append(errs, errors.New("a network is not valid"))
		case network.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("%s is a network of IPv4: write it as one", network))
		case network.Masked() != network:
			errs = append(errs, fmt.Errorf("%s is not a network: %s is", network, network.Masked()))
		case network.Bits() == 0:
			errs = append(errs, fmt.Errorf("%s is every address: name the networks of the receivers", network))
		case neverReached(network.Addr()) && neverReached(last(network)):
			errs = append(errs, fmt.Errorf("%s is never reached: link-local addresses and metadata services give credentials to any caller", network))
		}
	}
	return errors.Join(errs...)
}

// last returns the last address of a network.
func last(network netip.Prefix) netip.Addr {
	bytes := network.Addr().AsSlice()
	for bit := network.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

func neverReached(a netip.Addr) bool {
	for _, network := range never {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// contains reports whether an address lies in one of the networks and may be reached.
func (n Networks) contains(a netip.Addr) bool {
	for _, network := range n {
		if network.Contains(a) {
			return !neverReached(a)
		}
	}
	return false
}

// Allowed checks a URL before the request, as the function Allowed does. The transport
// checks the address of a host name when it connects.
func (n Networks) Allowed(u *url.URL) error {
	address, err := netip.ParseAddr(u.Hostname())
	address = address.Unmap()
	switch {
	case len(n) == 0, err == nil && !n.contains(address):
		return Allowed(u)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%w: it begins neither with https:// nor with http://", ErrNotAllowed)
	case u.Hostname() == "":
		return fmt.Errorf("%w: it names no host", ErrNotAllowed)
	case u.User != nil:
		return fmt.Errorf("%w: it holds a user name or password", ErrNotAllowed)
	}
	return nil
}

var errPlain = fmt.Errorf("%w: plain HTTP goes to the allowed networks only", ErrNotAllowed)

// Transport returns a transport that connects to public addresses at port 443 by HTTPS, and
// to the networks at any port. Addresses are checked after the name was resolved. It never
// uses a proxy.
func (n Networks) Transport() http.RoundTripper {
	if len(n) == 0 {
		return PublicTransport()
	}
	return byScheme{
		plain: transport(func(at netip.AddrPort) error {
			if !n.contains(at.Addr()) {
				return errPlain
			}
			return nil
		}),
		secure: transport(func(at netip.AddrPort) error {
			if !n.contains(at.Addr()) && !publicHTTPS(at) {
				return errNotPublic
			}
			return nil
		}),
	}
}

// byScheme sends plain requests and those over TLS by transports with rules of their own.
type byScheme struct{ plain, secure http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b byScheme) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" {
		return b.secure.RoundTrip(req)
	}
	return b.plain.RoundTrip(req)
}
