package fetch

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func networks(t *testing.T, text string) Networks {
	t.Helper()
	var n Networks
	require.NoError(t, n.UnmarshalText([]byte(text)), text)
	return n
}

func TestNetworksAreReadAndWrongOnesAreNamed(t *testing.T) {
	require.Equal(t, Networks{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.1.5/32"), netip.MustParsePrefix("fd12::/16")},
		networks(t, "10.0.0.0/8, 192.168.1.5,fd12::/16,"))
	require.Empty(t, networks(t, ""))
	for text, why := range map[string]string{
		"ten":                "is not a network like",
		"10.0.0.0/33":        "is not a network like",
		"fe80::1%eth0":       "is not a network like",
		"10.0.0.1/8":         "10.0.0.0/8 is",
		"0.0.0.0/0":          "is every address",
		"::/0":               "is every address",
		"169.254.169.254":    "is never reached",
		"169.254.0.0/16":     "is never reached",
		"fe80::/64":          "is never reached",
		"fd00:ec2::254":      "is never reached",
		"::ffff:10.0.0.0/96": "write it as one",
	} {
		var n Networks
		require.ErrorContains(t, n.UnmarshalText([]byte(text)), why, text)
	}
}

func TestAllowedNetworksAddToThePublicAddressesAndNeverHoldMetadata(t *testing.T) {
	n := networks(t, "10.0.0.0/8,127.0.0.1/32,100.64.0.0/10,169.0.0.0/8,fd00::/8")
	for raw, allowed := range map[string]bool{
		"http://10.1.2.3:8080/hook":        true,
		"https://10.1.2.3/":                true,
		"http://127.0.0.1:9/":              true,
		"http://[::ffff:10.1.2.3]/":        true, // the same address
		"http://backend:8080/":             true, // judged when it connects
		"https://shop.example/":            true,
		"http://127.0.0.2/":                false,
		"http://192.168.0.1/":              false,
		"http://8.8.8.8/":                  false, // plain HTTP to a public address
		"https://8.8.8.8:8443/":            false,
		"https://8.8.8.8/":                 true,
		"http://169.254.169.254/latest":    false,
		"http://[::ffff:169.254.169.254]/": false,
		"http://100.100.100.200/":          false,
		"http://[fd00:ec2::254]/":          false,
		"http://user:secret@10.1.2.3/":     false,
		"ftp://10.1.2.3/":                  false,
		"http:///hook":                     false,
	} {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		if err := n.Allowed(u); allowed {
			require.NoError(t, err, raw)
		} else {
			require.ErrorIs(t, err, ErrNotAllowed, raw)
		}
	}
	u, err := url.Parse("http://10.1.2.3/")
	require.NoError(t, err)
	require.ErrorIs(t, Networks{}.Allowed(u), ErrNotAllowed)
}

func TestTheNetworksAreJudgedWhenTheTransportConnects(t *testing.T) {
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(receiver.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(receiver.URL, "http://"), ":")
	get := func(n Networks, address string) error {
		res, err := (&http.Client{Transport: n.Transport()}).Get(address)
		if err == nil {
			require.Equal(t, http.StatusNoContent, res.StatusCode)
			res.Body.Close()
		}
		return err
	}
	require.NoError(t, get(networks(t, "127.0.0.1/32"), receiver.URL))
	require.NoError(t, get(networks(t, "127.0.0.0/8,::1"), "http://localhost:"+port), "a name is resolved first")
	for _, elsewhere := range []Networks{nil, networks(t, "10.0.0.0/8")} {
		require.ErrorIs(t, get(elsewhere, receiver.URL), ErrNotAllowed)
		require.ErrorIs(t, get(elsewhere, "http://localhost:"+port), ErrNotAllowed, "whatever its name")
		require.ErrorIs(t, get(elsewhere, "https://127.0.0.1:"+port), ErrNotAllowed)
	}
	metadata := networks(t, "168.0.0.0/7,100.64.0.0/10")
	for _, address := range []string{"http://169.254.169.254/latest", "https://169.254.169.254", "http://100.100.100.200/"} {
		require.ErrorIs(t, get(metadata, address), ErrNotAllowed, address)
	}
}
