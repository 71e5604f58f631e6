// Package webhook tells a URL that a task has ended, by the rules of Standard Webhooks
// (https://www.standardwebhooks.com): signed, with one id for all tries, and with tries over
// three days.
//
// A task's end puts a delivery into a queue in Redis, in the round trip that announces the
// end. The leader of the workers sends due deliveries. Results never wait for a receiver. The
// queue lives in Redis only: a Redis that is wiped loses its waiting deliveries, and one
// that is set back may send some twice. The results are in the bucket all the same.
package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Signer signs deliveries with keys that it derives from a secret of the fleet: an HMAC key
// for each tenant, so that no tenant can forge the deliveries of another, and one ed25519
// key, whose public part anybody may know.
type Signer struct {
	secret  []byte
	private ed25519.PrivateKey
}

// leastSecret is the shortest secret, in bytes.
const leastSecret = 32

// ParseSecrets reads one secret, or several with spaces between: the first is the newest.
// Deliveries have the signatures of all, so that receivers can change keys in their own
// time. It returns nil for an empty text.
func ParseSecrets(text string) ([]Signer, error) {
	var signers []Signer
	for secret := range strings.FieldsSeq(text) {
		if len(secret) < leastSecret {
			return nil, fmt.Errorf("a webhook secret has %d characters, fewer than %d: make one by openssl rand -hex 32", len(secret), leastSecret)
		}
		signers = append(signers, newSigner([]byte(secret)))
	}
	if len(signers) > 4 {
		return nil, errors.New("there are more than 4 webhook secrets")
	}
	return signers, nil
}

func newSigner(secret []byte) Signer {
	s := Signer{secret: secret}
	s.private = ed25519.NewKeyFromSeed(s.derive("ed25519"))
	return s
}

func (s Signer) derive(purpose string) []byte {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte("neuronmill webhook " + purpose))
	return mac.Sum(nil)
}

// Secret returns the tenant's key for the signature v1: "whsec_" and base64. A receiver
// verifies with it and must keep it.
func (s Signer) Secret(tenant string) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(s.derive("tenant "+tenant))
}

// PublicKey returns the key for the signature v1a: "whpk_" and base64. It is no secret.
func (s Signer) PublicKey() string {
	public, _ := s.private.Public().(ed25519.PublicKey)
	return "whpk_" + base64.StdEncoding.EncodeToString(public)
}

// Headers returns the three headers of Standard Webhooks for a body sent at a time.
func Headers(signers []Signer, tenant, id string, at time.Time, body []byte) map[string]string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	content := []byte(id + "." + stamp + "." + string(body))
	var signatures []string
	for _, s := range signers {
		mac := hmac.New(sha256.New, s.derive("tenant "+tenant))
		mac.Write(content)
		signatures = append(signatures,
			"v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)),
			"v1a,"+base64.StdEncoding.EncodeToString(ed25519.Sign(s.private, content)))
	}
	return map[string]string{"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": strings.Join(signatures, " ")}
}
