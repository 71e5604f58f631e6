package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/neuronmill/neuronmill/storage"
)

// secretKey is the object with the secret that signs cursors. All servers of a bucket share
// it, so that a cursor of one is good at another.
const secretKey = "_neuronmill/secret" //nolint:gosec // the key of an object, no credential

// secret reads the secret of the bucket, or makes it.
func (s *Server) secret(ctx context.Context) ([]byte, error) {
	s.secretMu.Lock()
	defer s.secretMu.Unlock()
	if s.cursorKey != nil {
		return s.cursorKey, nil
	}
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails
	err := s.cfg.Store.Create(ctx, secretKey, bytes.NewReader(fresh), "application/octet-stream")
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return nil, fmt.Errorf("make the secret of cursors: %w", err)
	}
	body, err := s.cfg.Store.Get(ctx, secretKey)
	if err != nil {
		return nil, fmt.Errorf("read the secret of cursors: %w", err)
	}
	defer body.Close()
	secret, err := io.ReadAll(io.LimitReader(body, 64))
	if err != nil || len(secret) < 32 {
		return nil, fmt.Errorf("read the secret of cursors: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	s.cursorKey = secret
	return secret, nil
}

const signatureSize = 16

// sealCursor encodes a position in a list with these filters.
func (s *Server) sealCursor(ctx context.Context, filters string, at any) (string, error) {
	secret, err := s.secret(ctx)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(at)
	if err != nil {
		return "", fmt.Errorf("encode a cursor: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(append(signature(secret, filters, text), text...)), nil
}

// openCursor reads what sealCursor wrote for the same filters. An empty cursor leaves the
// position as it is.
func (s *Server) openCursor(ctx context.Context, cursor, filters string, at any) (*Problem, error) {
	if cursor == "" {
		return nil, nil
	}
	secret, err := s.secret(ctx)
	if err != nil {
		return nil, err
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(sealed) < signatureSize || !hmac.Equal(sealed[:signatureSize], signature(secret, filters, sealed[signatureSize:])) {
		return newProblem(codeCursorInvalid, ""), nil
	}
	if err := json.Unmarshal(sealed[signatureSize:], at); err != nil {
		return newProblem(codeCursorInvalid, ""), nil
	}
	return nil, nil
}

func signature(secret []byte, filters string, text []byte) []byte {
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "%d %s", len(filters), filters)
	h.Write(text)
	return h.Sum(nil)[:signatureSize]
}
