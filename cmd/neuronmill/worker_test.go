package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/neuronmill/neuronmill/internal/app"
	"github.com/stretchr/testify/require"
)

func TestAWorkerWhoseClockIsOffDoesNotStart(t *testing.T) {
	for _, off := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		server := miniredis.RunT(t)
		server.SetTime(time.Now().Add(off))
		t.Chdir(t.TempDir())
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"worker", "--redis-url", "redis://" + server.Addr()}, strings.NewReader(""), &stdout, &stderr)
		require.Equal(t, app.ExitUsage, code, stderr.String())
		require.Contains(t, stderr.String(), "off that of redis")
	}
}
