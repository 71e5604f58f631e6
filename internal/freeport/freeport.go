// Package freeport finds ports for servers that tests and benchmarks start.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// These ports lie below those that systems use for outgoing connections: 32768 and up on
// Linux, 49152 elsewhere. So a restarted server finds its port still free, although
// clients keep dialling.
const first, last = 10000, 32000

// Find returns a free port of loopback. Another process may choose the same port at the
// same moment, which is rare among 22,000 ports.
func Find() (port string, err error) {
	for range 100 {
		port = strconv.Itoa(first + rand.IntN(last-first))
		l, failed := net.Listen("tcp", "127.0.0.1:"+port)
		if failed == nil {
			return port, l.Close()
		}
		err = failed
	}
	return "", fmt.Errorf("no free port on loopback: %w", err)
}
