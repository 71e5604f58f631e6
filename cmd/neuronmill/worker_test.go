package main

import (
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/stretchr/testify/require"
)

func TestAWorkerWhoseClockIsOffDoesNotStart(t *testing.T) {
	for _, off := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		server := miniredis.RunT(t)
		server.SetTime(time.Now().Add(off))
		t.Chdir(t.TempDir())
		var stdout, stderr safeBuffer
		code := run(t.Context(), []string{"worker", "--redis-url", "redis://" + server.Addr()}, strings.NewReader(""), &stdout, &stderr)
		require.Equal(t, app.ExitUsage, code, stderr.String())
		require.Contains(t, stderr.String(), "off that of redis")
	}
}

func TestAWorkerDoesNotStartOnABucketWithoutCreateOnlyWrites(t *testing.T) {
	door := realtest.NewDoor(t, realtest.S3Server(t).Addr)
	door.Set(realtest.Uncreatable)
	t.Setenv("PATH", t.TempDir())
	url := "s3://" + realtest.Bucket + "?region=us-east-1&path_style=true&endpoint=http://" + door.Addr
	code, _, stderr := command(t.Context(), t, strings.NewReader(""), "worker", "--store-url", url)
	require.Equal(t, app.ExitUsage, code, stderr)
	require.Contains(t, stderr, "takes no create-only writes (If-None-Match: *), which results need: use a service that does")
	code, _, stderr = command(t.Context(), t, strings.NewReader(""), "run", "text", "hi", "--store-url", url)
	require.NotZero(t, code)
	require.Contains(t, stderr, "takes no create-only writes")
}
