package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	headerTime   = 5 * time.Second // in which the headers of a request must arrive
	idleTime     = 60 * time.Second
	mostHeader   = 16 << 10
	mostOpen     = 4096 // connections
	mostOpenEach = 64   // connections of one address that is not on this machine
	stopTime     = 30 * time.Second
)

func splitListen(listen string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(listen)
	if err != nil {
		return "", "", errors.New("--listen must be host:port, such as " + DefaultListen)
	}
	return host, port, nil
}

// onLoopback reports whether only this machine can reach the server.
func (s *Server) onLoopback() bool {
	host, _, err := splitListen(cmp.Or(s.cfg.Listen, DefaultListen))
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// Listen opens the server's address. It refuses an address that others can reach while
// there is no key, or neither TLS nor a proxy.
func (s *Server) Listen(ctx context.Context) (net.Listener, error) {
	address := cmp.Or(s.cfg.Listen, DefaultListen)
	if !s.onLoopback() {
		any, err := s.keys.Any(ctx)
		switch {
		case err != nil:
			return nil, err
		case !any:
			return nil, fmt.Errorf("other machines can reach %s, and there is no API key: make one first with neuronmill key create, or listen on 127.0.0.1", address)
		case s.cfg.TLSCert == "" && !s.cfg.BehindProxy:
			return nil, fmt.Errorf("other machines can reach %s without TLS: set --tls-cert and --tls-key, or --behind-proxy if a proxy in front of it ends TLS", address)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (--listen chooses another address): %w", address, err)
	}
	limited := &limitedListener{Listener: l, each: map[string]int{}, mostEach: mostOpenEach, slots: make(chan struct{}, mostOpen)}
	if s.cfg.BehindProxy { // all connections are those of the proxy
		limited.mostEach = mostOpen
	}
	return limited, nil
}

// Run serves a listener of Listen until ctx ends, then lets requests finish, waits and
// streams ending at once. It closes the listener.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: mostHeader,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 100},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() {
		if s.cfg.TLSCert == "" {
			ended <- server.Serve(l)
			return
		}
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		ended <- server.ServeTLS(l, s.cfg.TLSCert, s.cfg.TLSKey)
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	s.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err := server.Shutdown(ctx)
	if err != nil {
		_ = server.Close()
	}
	<-ended //nolint:errcheck // Serve always returns an error, here that of Shutdown
	s.closeOpenAI()
	return err
}

// limitedListener accepts a bounded number of connections. Further callers wait in the
// backlog of the system; those of an address that has too many are closed.
type limitedListener struct {
	net.Listener
	slots    chan struct{}
	mostEach int // connections of one address that is not on this machine

	mu   sync.Mutex
	each map[string]int // open connections by address
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		l.slots <- struct{}{}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		address := ""
		if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
			address = tcp.IP.String()
		}
		if !l.enter(address) {
			conn.Close()
			<-l.slots
			continue
		}
		return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(address) })}, nil
	}
}

func (l *limitedListener) enter(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if address != "" && l.each[address] >= l.mostEach {
		return false
	}
	l.each[address]++
	return true
}

func (l *limitedListener) leave(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each[address]--; l.each[address] == 0 {
		delete(l.each, address)
	}
	<-l.slots
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
