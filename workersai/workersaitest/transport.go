package workersaitest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
)

// HTTPClient returns a client that calls this emulator without a network. It streams,
// respects contexts and fails like a connection. It works in a synctest bubble.
func (s *Server) HTTPClient() *http.Client { return &http.Client{Transport: inProcess{s}} }

type inProcess struct{ handler http.Handler }

// errReset is the client's error for a connection that broke before an answer.
var errReset = errors.New("read: " + syscall.ECONNRESET.Error())

// RoundTrip implements http.RoundTripper.
func (p inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	served := req.Clone(ctx)
	if served.Body == nil {
		served.Body = http.NoBody
	}
	served.RequestURI = req.URL.RequestURI()
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, started: make(chan struct{})}
	go func() {
		defer func() {
			served.Body.Close()
			if r := recover(); r != nil {
				w.broke.Store(true)
				pw.CloseWithError(io.ErrUnexpectedEOF)
			} else {
				w.WriteHeader(http.StatusOK)
				_ = pw.Close()
			}
			w.start()
		}()
		p.handler.ServeHTTP(w, served)
	}()
	select {
	case <-w.started:
	case <-ctx.Done():
		cancel()
		pr.CloseWithError(ctx.Err())
		return nil, ctx.Err()
	}
	if w.broke.Load() && w.status == 0 {
		cancel()
		return nil, errReset
	}
	stop := context.AfterFunc(ctx, func() { pr.CloseWithError(context.Cause(ctx)) })
	return &http.Response{
		StatusCode: w.status, Status: http.StatusText(w.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &pipeBody{pr, func() { stop(); cancel() }}, ContentLength: -1, Request: req,
	}, nil
}

// pipeWriter is the emulator's side of one exchange.
type pipeWriter struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	once         sync.Once
	started      chan struct{}
	broke        atomic.Bool
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
	}
	w.start()
}

func (w *pipeWriter) start() { w.once.Do(func() { close(w.started) }) }

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// Flush does nothing: the reader receives each write at once.
func (w *pipeWriter) Flush() {}

type pipeBody struct {
	*io.PipeReader
	end func()
}

func (b *pipeBody) Close() error {
	b.end()
	return b.PipeReader.Close()
}
