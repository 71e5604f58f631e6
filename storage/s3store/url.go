package s3store

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Config says where the bucket is. Credentials come from the AWS chain: environment,
// shared files, instance roles.
type Config struct {
	Bucket    string
	Prefix    string        // prefix of every key; "" or without a trailing "/"
	Endpoint  string        // of a service other than AWS; empty for AWS
	Region    string        // empty or "auto": the region that the Endpoint names; on AWS that of the AWS settings
	PathStyle bool          // bucket name in the path, not in the host name
	Patience  time.Duration // idle timeout of a connection; 0 means 30 s
}

// String describes the bucket for people.
func (c Config) String() string {
	s := "s3://" + c.Bucket
	if c.Prefix != "" {
		s += "/" + c.Prefix
	}
	if c.Endpoint != "" {
		s += " at " + c.Endpoint
	}
	return s
}

// ParseURL parses
// s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=auto&path_style=true.
func ParseURL(raw string) (Config, error) {
	wrong := func(why string) (Config, error) {
		return Config{}, errors.New("NEURONMILL_STORE_URL is not valid: " + why)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "s3" || u.Host == "" {
		return wrong("it is s3://bucket/prefix?endpoint=URL&region=auto&path_style=true")
	}
	if u.User != nil {
		return wrong("keys do not belong into it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	for name, values := range u.Query() {
		value := values[0]
		switch name {
		case "endpoint":
			if !strings.HasPrefix(value, "http://") && !strings.HasPrefix(value, "https://") {
				return wrong("endpoint must begin with http:// or https://")
			}
			c.Endpoint = value
		case "region":
			c.Region = value
		case "path_style":
			if c.PathStyle, err = strconv.ParseBool(value); err != nil {
				return wrong("path_style is true or false")
			}
		default:
			return wrong(fmt.Sprintf("there is no parameter %q; there are endpoint, region and path_style", name))
		}
	}
	return c, nil
}
