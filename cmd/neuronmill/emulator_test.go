package main

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheEmulatorPrintsAnAddressThatCanBeUsed(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv6unspecified, Port: 4321}
	for host, want := range map[string]string{
		"127.0.0.1": "http://127.0.0.1:4321/client/v4",
		"localhost": "http://localhost:4321/client/v4",
		"::1":       "http://[::1]:4321/client/v4",
		"0.0.0.0":   "http://127.0.0.1:4321/client/v4 (from other machines with this one's name)",
		"::":        "http://127.0.0.1:4321/client/v4 (from other machines with this one's name)",
		"":          "http://127.0.0.1:4321/client/v4 (from other machines with this one's name)",
	} {
		require.Equal(t, want, emulatorURL(host, at), host)
	}
}
