package app

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/worker"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestAURLOfAClusterIsRead(t *testing.T) {
	r, err := dial("rediss-cluster://mill:p%40ss@h1:7001,[::1]:7002,h3?read_timeout=7s&skip_verify=true", 55)
	require.NoError(t, err)
	defer r.Close()
	o := r.UniversalClient.(*redis.ClusterClient).Options()
	require.Equal(t, []string{"h1:7001", "[::1]:7002", "h3:6379"}, o.Addrs)
	require.Equal(t, "mill", o.Username)
	require.Equal(t, "p@ss", o.Password)
	require.Equal(t, 7*time.Second, o.ReadTimeout)
	require.Equal(t, 55, o.PoolSize)
	require.True(t, o.TLSConfig.InsecureSkipVerify)
	require.Empty(t, o.TLSConfig.ServerName, "each node has a certificate of its own")
	require.EqualValues(t, tls.VersionTLS12, o.TLSConfig.MinVersion)
	require.Equal(t, "h1:7001,[::1]:7002,h3:6379", r.Description)

	plain, err := dial("redis-cluster://h1/0?pool_size=9", 55)
	require.NoError(t, err)
	defer plain.Close()
	o = plain.UniversalClient.(*redis.ClusterClient).Options()
	require.Nil(t, o.TLSConfig)
	require.Equal(t, 9, o.PoolSize, "the URL has the last word")
	require.Empty(t, o.Password)
}

func TestAURLOfSentinelsIsRead(t *testing.T) {
	r, err := dial("rediss-sentinel://mill:secret1@h1,h2:26380/master?db=3&sentinel_username=watch&sentinel_password=secret2&dial_timeout=2s", 55)
	require.NoError(t, err)
	defer r.Close()
	o := r.UniversalClient.(*redis.Client).Options()
	require.Equal(t, "mill", o.Username)
	require.Equal(t, "secret1", o.Password)
	require.Equal(t, 3, o.DB)
	require.Equal(t, 55, o.PoolSize)
	require.Equal(t, 2*time.Second, o.DialTimeout)
	require.NotNil(t, o.TLSConfig)
	require.False(t, o.TLSConfig.InsecureSkipVerify)
	require.Equal(t, "master at h1:26379,h2:26380", r.Description)
}

func TestThePoolOfASingleRedisIsSizedByTheCalls(t *testing.T) {
	require.Equal(t, 32, Settings{}.PoolSize())
	require.Equal(t, 72, Settings{Calls: worker.Config{}.Calls()}.PoolSize())
	require.Equal(t, 1000, Settings{Calls: worker.Config{Concurrency: 10_000}.Calls()}.PoolSize())
	for url, want := range map[string]int{"redis://h": 72, "redis://h?pool_size=9": 9, "unix:///redis.sock": 72} {
		r, err := dial(url, 72)
		require.NoError(t, err)
		require.Equal(t, want, r.UniversalClient.(*redis.Client).Options().PoolSize, url)
		require.NoError(t, r.Close())
	}
}

func TestAWrongURLOfRedisIsSaidWithoutItsPassword(t *testing.T) {
	for url, want := range map[string]string{
		"redis-cluster://h1:1?db=1":                     `there is no parameter "db": a cluster has only the database 0`,
		"redis-cluster://h1:1/1":                        "a cluster has only the database 0",
		"redis-cluster://h1:1?tls=true":                 `there is no parameter "tls": TLS is rediss-cluster://`,
		"redis-cluster://h1:1?read_only=true":           "reads must not go to replicas",
		"redis-cluster://h1:1?route_randomly=true":      "reads must not go to replicas",
		"redis-cluster://h1:1?pool_sise=3":              `there is no parameter "pool_sise"`,
		"redis-cluster://h1:1?pool_size=many":           "pool_size has a value that is not valid",
		"redis-cluster://h1:1?pool_size=1&pool_size=2":  "pool_size stands there more than once",
		"redis-cluster://h1:1?skip_verify=true":         "skip_verify",
		"rediss-cluster://h1:1?skip_verify=perhaps":     "skip_verify",
		"redis-cluster://h1:1?sentinel_password=secret": `there is no parameter "sentinel_password"`,
		"redis-cluster://":                              "list of hosts",
		"redis-cluster://h1,,h2":                        "list of hosts",
		"redis-cluster://h1:x":                          "list of hosts",
		"redis-cluster://h1:99999":                      "a port is",
		"redis-cluster://:se/cret@h1":                   "percent-encoded",
		"redis-cluster://:se%zzcret@h1":                 "percent-encoded",
		"redis-cluster://:x?secret@h1":                  "list of hosts",
		"redis-cluster://u:12?secret@h1":                "unescaped",
		"redis-sentinel://h1":                           "the name of the master",
		"redis-sentinel://h1/master/1":                  "?db=1",
		"redis-sentinel://h1/master?db=one":             "db is the number",
		"redis-sentinel://h1/master?db=-1":              "db is the number",
		"redis-sentinel://h1/master?password=secret":    "the login is redis-sentinel://user:password@",
		"redis-sentinel://h1/master?master_name=x":      `there is no parameter "master_name"`,
		"redis-sentinel://h1/master?addr=h2":            `there is no parameter "addr"`,
		"redis://h1:1?databse=1":                        `there is no parameter "databse"`,
		"redis://:x?secret@h1":                          "it is redis://",
		"rediss+cluster://h1":                           "rediss...",
	} {
		_, err := dial(url, 1)
		require.ErrorContains(t, err, "NEURONMILL_REDIS_URL is not valid", url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "secret", url)
	}
}
