package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

func TestTheDoctorSaysHowToMendTheAccount(t *testing.T) {
	realtest.Long(t)
	emulator := workersaitest.New(workersaitest.Options{})
	api := httptest.NewServer(emulator)
	defer api.Close()
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CLOUDFLARE_ACCOUNT_ID", "0123456789abcdef0123456789abcdef")
	t.Setenv("CLOUDFLARE_API_TOKEN", "hunter2")
	t.Setenv("CLOUDFLARE_BASE_URL", api.URL)
	for name, c := range map[string]struct {
		fault workersaitest.Fault
		want  string
	}{
		"well":                {workersaitest.Fault{}, "ok    account"},
		"wrong token":         {workersaitest.Fault{Code: 10000}, "check CLOUDFLARE_API_TOKEN"},
		"junk token":          {workersaitest.Fault{Code: 9106}, "check CLOUDFLARE_API_TOKEN"},
		"another account":     {workersaitest.Fault{Code: 10000, Status: http.StatusForbidden}, "may not use this account: check CLOUDFLARE_ACCOUNT_ID"},
		"no account":          {workersaitest.Fault{Code: 7003}, "check CLOUDFLARE_ACCOUNT_ID, 32 hexadecimal digits"},
		"no gateway":          {workersaitest.Fault{Code: 2001}, "check CLOUDFLARE_AI_GATEWAY"},
		"blocked":             {workersaitest.Fault{Code: 3023}, "look at its plan"},
		"spent":               {workersaitest.Fault{Code: 4006}, "spent or throttled"},
		"a page":              {workersaitest.Fault{Status: 502, Body: "<html>"}, "check CLOUDFLARE_BASE_URL and try again"},
		"something else":      {workersaitest.Fault{Status: 200, Body: "{}"}, "something else answers: check CLOUDFLARE_BASE_URL"},
		"a redirect":          {workersaitest.Fault{Odd: "redirect"}, "the address leads elsewhere: check CLOUDFLARE_BASE_URL"},
		"a broken connection": {workersaitest.Fault{Reset: true}, "cannot be reached: check the network"},
	} {
		emulator.Reset()
		emulator.Fault(c.fault)
		code, stdout, _ := command(t.Context(), t, strings.NewReader(""), "doctor")
		require.Contains(t, stdout, c.want, name)
		require.NotContains(t, stdout, "hunter2")
		require.Equal(t, strings.Contains(stdout, "FAIL"), code == 1, name)
	}
}

func TestTheDoctorSaysHowToMendTheBucket(t *testing.T) {
	realtest.Long(t)
	server := realtest.S3Server(t)
	nobody := realtest.FreeAddr(t)
	t.Setenv("PATH", t.TempDir())
	bucket := func(env map[string]string, url string) string {
		for k, v := range env {
			t.Setenv(k, v)
		}
		_, stdout, _ := command(t.Context(), t, strings.NewReader(""), "doctor", "--store-url", url)
		return stdout
	}
	at := func(name, addr string) string {
		return "s3://" + name + "?region=us-east-1&path_style=true&endpoint=http://" + addr
	}
	require.Contains(t, bucket(nil, at(realtest.Bucket, server.Addr)), "ok    bucket")
	require.Contains(t, bucket(nil, "s3://"+realtest.Bucket+"?path_style=true&endpoint=http://"+server.Addr), "ok    bucket", "the README's URL has no region")
	require.Contains(t, bucket(nil, at("nowhere", server.Addr)), "neuronmill doctor --create-bucket")
	require.Contains(t, bucket(nil, at(realtest.Bucket, nobody)), "cannot be reached: start it, or fix NEURONMILL_STORE_URL")
	require.Contains(t, bucket(nil, "/var/results"), "NEURONMILL_STORE_URL is not valid: it is file:/path or s3://")
	require.Contains(t, bucket(nil, "file:/proc/nowhere"), "open the store in /proc/nowhere")
	door := realtest.NewDoor(t, server.Addr)
	door.Set(realtest.Uncreatable)
	require.Contains(t, bucket(nil, at(realtest.Bucket, door.Addr)), "takes no create-only writes (If-None-Match: *)")
	door.Set(realtest.Unconditional)
	require.Contains(t, bucket(nil, at(realtest.Bucket, door.Addr)), "ignores their condition (If-None-Match: *)")
	wrong := bucket(map[string]string{"AWS_SECRET_ACCESS_KEY": "hunter2"}, at(realtest.Bucket, server.Addr))
	require.Contains(t, wrong, "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
	require.NotContains(t, wrong, "hunter2")
	none := map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": t.TempDir()}
	require.Contains(t, bucket(none, at(realtest.Bucket, server.Addr)), "there are no credentials: set AWS_ACCESS_KEY_ID")
}

func TestTheDoctorDoesNotWaitForWhatWaitingCannotRepair(t *testing.T) {
	realtest.Long(t)
	emulator := workersaitest.New(workersaitest.Options{})
	api := httptest.NewServer(emulator)
	defer api.Close()
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CLOUDFLARE_ACCOUNT_ID", "0123456789abcdef0123456789abcdef")
	t.Setenv("CLOUDFLARE_API_TOKEN", "hunter2")
	t.Setenv("CLOUDFLARE_BASE_URL", api.URL)

	emulator.Fault(workersaitest.Fault{Code: 10000})
	code, stdout, _ := command(t.Context(), t, strings.NewReader(""), "doctor", "--wait", "10m")
	require.Equal(t, 1, code)
	require.Equal(t, 1, strings.Count(stdout, "FAIL"))
	require.Len(t, emulator.Requests(), 1, "the API is not asked again and again")

	emulator.Reset()
	emulator.Fault(workersaitest.Fault{To: 2, Status: 502, Body: "<html>"}) // longer than one try
	code, stdout, _ = command(t.Context(), t, strings.NewReader(""), "doctor", "--wait", "10m")
	require.Equal(t, 0, code, stdout)
	require.Equal(t, 1, strings.Count(stdout, "FAIL"), "the same line is printed once")
	require.Equal(t, 1, strings.Count(stdout, "ok    account"))
	require.Equal(t, 1, strings.Count(stdout, "ok    redis"))
}
