// Package freeport finds ports for servers that tests and benchmarks start.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Below the ports that systems give to outgoing connections (32768 and up on Linux, 49152
// elsewhere): a server that is started again must find its own still free, however many
// clients dial meanwhile.
const first, last = 10000, 32000

// Find gives a port of loopback that nothing listens on. Another process may draw it in the
// same moment, which 22,000 of them make rare.
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
