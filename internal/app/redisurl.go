package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

const redisForms = "it is redis://user:password@host:6379/0, redis-sentinel://h1:26379,h2:26379/master, redis-cluster://h1:6379,h2:6379, each with TLS as rediss..., or embedded: for one of our own" //nolint:gosec // it shows where the password goes

// wrongRedisURL returns an error that explains the fault of the URL. It never repeats the
// URL, which may contain a password.
func wrongRedisURL(why string) error {
	return errors.New("NEURONMILL_REDIS_URL is not valid: " + why)
}

// dial makes the client of a URL. The pool has at most poolSize connections per server,
// unless the URL sets another number. The first command connects.
func dial(raw string, poolSize int) (*Redis, error) {
	scheme, _, _ := strings.Cut(raw, ":")
	switch scheme {
	case "redis", "rediss", "unix":
		return dialSingle(raw, poolSize)
	case "redis-cluster", "rediss-cluster":
		return dialCluster(raw, poolSize)
	case "redis-sentinel", "rediss-sentinel":
		return dialSentinel(raw, poolSize)
	}
	return nil, wrongRedisURL(redisForms)
}

func dialSingle(raw string, poolSize int) (*Redis, error) {
	o, err := redis.ParseURL(raw)
	if err != nil { // the library's own text may contain the password
		const unexpected = "redis: unexpected option: "
		if names, ok := strings.CutPrefix(err.Error(), unexpected); ok {
			return nil, unknownParameter(raw, strings.Split(names, ", ")[0])
		}
		return nil, wrongRedisURL(redisForms)
	}
	if o.PoolSize == 0 {
		o.PoolSize = poolSize
	}
	return &Redis{UniversalClient: redis.NewClient(o), Description: o.Addr}, nil
}

func dialCluster(raw string, poolSize int) (*Redis, error) {
	u, err := parseServers(raw, "6379")
	if err != nil {
		return nil, err
	}
	if u.path != "" && u.path != "0" {
		return nil, wrongRedisURL("the URL of a cluster has no path: a cluster has only the database 0")
	}
	if err := u.check("cluster", nil); err != nil {
		return nil, err
	}
	o, err := redis.ParseClusterURL(u.plain())
	if err != nil {
		return nil, wrongRedisURL(redisForms)
	}
	o.Addrs, o.Username, o.Password, o.TLSConfig = u.addrs, u.user, u.password, u.tls()
	if o.PoolSize == 0 {
		o.PoolSize = poolSize
	}
	return &Redis{UniversalClient: redis.NewClusterClient(o), Description: strings.Join(u.addrs, ",")}, nil
}

func dialSentinel(raw string, poolSize int) (*Redis, error) {
	u, err := parseServers(raw, "26379")
	if err != nil {
		return nil, err
	}
	if u.path == "" || strings.Contains(u.path, "/") {
		return nil, wrongRedisURL("the path of a sentinel URL is the name of the master, redis-sentinel://h1:26379,h2:26379/master; another database than 0 is ?db=1")
	}
	if err := u.check("sentinel", []string{"db", "sentinel_username", "sentinel_password"}); err != nil {
		return nil, err
	}
	o, err := redis.ParseFailoverURL(u.plain())
	if err != nil {
		return nil, wrongRedisURL(redisForms)
	}
	if db := u.values.Get("db"); db != "" {
		if o.DB, err = strconv.Atoi(db); err != nil || o.DB < 0 {
			return nil, wrongRedisURL("db is the number of a database, 0 to 15 unless the server has more")
		}
	}
	o.MasterName, o.SentinelAddrs, o.TLSConfig = u.path, u.addrs, u.tls()
	o.Username, o.Password = u.user, u.password
	o.SentinelUsername, o.SentinelPassword = u.values.Get("sentinel_username"), u.values.Get("sentinel_password")
	if o.PoolSize == 0 {
		o.PoolSize = poolSize
	}
	return &Redis{UniversalClient: redis.NewFailoverClient(o), Description: u.path + " at " + strings.Join(u.addrs, ",")}, nil
}

// servers is a parsed URL with several hosts, which net/url does not support.
type servers struct {
	raw            string
	secure         bool // TLS
	user, password string
	addrs          []string
	path           string // without the first slash
	values         url.Values
}

func parseServers(raw, port string) (*servers, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	rest, query, _ := strings.Cut(rest, "?")
	login, hosts, hasLogin := cutLast(rest, "@")
	hosts, path, _ := strings.Cut(hosts, "/")
	values, err := url.ParseQuery(query)
	if !ok || err != nil {
		return nil, wrongRedisURL(redisForms)
	}
	u := &servers{raw: raw, secure: strings.HasPrefix(scheme, "rediss"), path: path, values: values}
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(host, port)
		if err != nil {
			return nil, err
		}
		u.addrs = append(u.addrs, addr)
	}
	if !hasLogin {
		return u, nil
	}
	parsed, err := url.Parse("redis://" + login + "@host")
	if err != nil || parsed.User == nil {
		return nil, wrongRedisURL("user and password must be percent-encoded")
	}
	u.user = parsed.User.Username()
	u.password, _ = parsed.User.Password()
	return u, nil
}

// withPort returns host:port for host, host:port or [IPv6]:port; port is the default.
func withPort(host, port string) (string, error) {
	parsed, err := url.Parse("redis://" + host)
	if err != nil || parsed.Hostname() == "" || parsed.Host != host {
		return "", wrongRedisURL("after the login comes a list of hosts, h1:6379,h2:6379")
	}
	if own := parsed.Port(); own != "" {
		if n, err := strconv.Atoi(own); err != nil || n < 1 || n > 65535 {
			return "", wrongRedisURL("a port is 1 to 65535")
		}
		port = own
	}
	return net.JoinHostPort(parsed.Hostname(), port), nil
}

// tuning are the go-redis parameters allowed in a URL with several hosts. Parameters that
// send reads to replicas are excluded, because replicas lag.
var tuning = []string{
	"client_name", "conn_max_idle_time", "conn_max_lifetime", "dial_timeout", "max_active_conns", "max_idle_conns",
	"max_retries", "max_retry_backoff", "min_idle_conns", "min_retry_backoff", "pipeline_pool_size", "pool_fifo",
	"pool_size", "pool_timeout", "protocol", "read_timeout", "write_timeout",
}

// check reports unknown parameters and invalid values by name.
func (u *servers) check(what string, own []string) error {
	known := slices.Concat(tuning, own, []string{"skip_verify"})
	for _, name := range slices.Sorted(maps.Keys(u.values)) {
		switch {
		case !slices.Contains(known, name):
			why := ""
			switch name {
			case "db":
				why = ": a cluster has only the database 0"
			case "tls", "ssl":
				why = fmt.Sprintf(": TLS is rediss-%s://", what)
			case "read_only", "replica_only", "route_by_latency", "route_randomly":
				why = ": reads must not go to replicas, which lag"
			case "username", "password":
				why = fmt.Sprintf(": the login is redis-%s://user:password@...", what)
			}
			err := unknownParameter(u.raw, name)
			return fmt.Errorf("%w%s", err, why)
		case len(u.values[name]) > 1:
			return wrongRedisURL(name + " stands there more than once")
		case slices.Contains(tuning, name):
			single := servers{addrs: []string{"host:1"}, values: url.Values{name: u.values[name]}}
			if _, err := redis.ParseClusterURL(single.plain()); err != nil {
				return wrongRedisURL(name + " has a value that is not valid")
			}
		}
	}
	if skip := u.values.Get("skip_verify"); skip != "" {
		if _, err := strconv.ParseBool(skip); err != nil || !u.secure {
			return wrongRedisURL("skip_verify is true or false, and of use with TLS only")
		}
	}
	return nil
}

// plain returns a URL for the parser of go-redis: one host and the tuning parameters.
func (u *servers) plain() string {
	values := url.Values{}
	for _, name := range tuning {
		if v, ok := u.values[name]; ok {
			values[name] = v
		}
	}
	return "redis://" + u.addrs[0] + "?" + values.Encode()
}

// tls returns the TLS settings. Each server's certificate is checked against the address
// in use.
func (u *servers) tls() *tls.Config {
	if !u.secure {
		return nil
	}
	skip, _ := strconv.ParseBool(u.values.Get("skip_verify"))
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: skip} //nolint:gosec // only where the URL asks for it
}

// parameterName matches the name of a parameter.
var parameterName = regexp.MustCompile(`^[a-z][a-z_]{0,40}$`)

// unknownParameter returns an error that names the unknown parameter, unless the name may
// be the end of a password with an unescaped "?".
func unknownParameter(raw, name string) error {
	_, query, _ := strings.Cut(raw, "?")
	if !parameterName.MatchString(name) || strings.Contains(query, "@") {
		return wrongRedisURL("there is an unknown parameter after the \"?\", or an unescaped \"?\" in the password (%3F)")
	}
	return wrongRedisURL(fmt.Sprintf("there is no parameter %q", name))
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}
