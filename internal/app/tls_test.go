package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// certificate creates an untrusted certificate for 127.0.0.1.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	secret, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	write := func(name, kind string, bytes []byte) string {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600))
		return file
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", secret)
}

func port(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(realtest.FreeAddr(t))
	require.NoError(t, err)
	return port
}

// openRedis opens a URL, writes a key and closes the connection.
func openRedis(t *testing.T, url string) error {
	t.Helper()
	r, err := app.OpenRedis(t.Context(), app.Settings{RedisURL: url, DataDir: t.TempDir()}, silent)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.Set(t.Context(), "k", "v", 0).Err()
}

func TestAClusterIsReachedByTLSWithAPassword(t *testing.T) {
	cert, key := certificate(t)
	secure, bus := port(t), port(t)
	server := realtest.Redis(t, "--tls-port", secure, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no",
		"--cluster-enabled", "yes", "--cluster-port", bus, "--tls-cluster", "yes", "--requirepass", "secret1")
	admin := redis.NewClient(&redis.Options{Addr: server.Addr, Password: "secret1"})
	defer admin.Close()
	require.NoError(t, admin.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	require.Eventually(t, func() bool { return admin.Set(t.Context(), "k", "v", 0).Err() == nil }, 30*time.Second, 50*time.Millisecond)

	addr := "127.0.0.1:" + secure
	require.NoError(t, openRedis(t, "rediss-cluster://:secret1@"+addr+"?skip_verify=true"))
	require.ErrorContains(t, openRedis(t, "rediss-cluster://:secret1@"+addr), "certificate")
	err := openRedis(t, "rediss-cluster://:secret2@"+addr+"?skip_verify=true")
	require.ErrorContains(t, err, "password")
	require.NotContains(t, err.Error(), "secret2")
	require.ErrorContains(t, openRedis(t, "rediss-cluster://"+addr+"?skip_verify=true"), "password")
}

func TestSentinelsAreReachedByTLSWithPasswordsOfTheirOwn(t *testing.T) {
	cert, key := certificate(t)
	secure, watch := port(t), port(t)
	files := []string{"tls-cert-file " + cert, "tls-key-file " + key, "tls-ca-cert-file " + cert, "tls-auth-clients no", "tls-replication yes"}
	master := realtest.Redis(t, "--tls-port", secure, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no",
		"--requirepass", "secret1")
	realtest.Sentinel(t, "mill", "127.0.0.1 "+secure, 1, append(files, "tls-port "+watch, "sentinel auth-pass mill secret1", "requirepass secret2")...)

	url := "rediss-sentinel://:secret1@127.0.0.1:" + watch + "/mill?sentinel_password=secret2&skip_verify=true"
	require.NoError(t, openRedis(t, url+"&db=3"))
	admin := redis.NewClient(&redis.Options{Addr: master.Addr, Password: "secret1", DB: 3})
	defer admin.Close()
	require.Equal(t, "v", admin.Get(t.Context(), "k").Val(), "it is written to the database of the URL")

	require.ErrorContains(t, openRedis(t, "rediss-sentinel://:secret1@127.0.0.1:"+watch+"/mill?skip_verify=true"), "sentinel_password")
	require.ErrorContains(t, openRedis(t, "rediss-sentinel://:wrong@127.0.0.1:"+watch+"/mill?sentinel_password=secret2&skip_verify=true"), "password")
}
