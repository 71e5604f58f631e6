package tasks_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/neuronmill/neuronmill/"

// imports returns the packages that a package links, of this module or others.
func imports(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", module+pkg).Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

func TestImportsPointOneWay(t *testing.T) {
	leaves := map[string][]string{
		"storage":                 {},
		"internal/catalogue":      {},
		"internal/replid":         {},
		"internal/objects":        {"storage"},
		"internal/script":         {},
		"internal/spelling":       {},
		"internal/jsonsize":       {},
		"internal/mergepatch":     {},
		"internal/errtext":        {},
		"internal/taskstate":      {"internal/script"},
		"internal/queue":          {"internal/script"},
		"internal/gate":           {},
		"internal/media":          {},
		"internal/limits":         {"internal/catalogue", "internal/gate"},
		"tasks":                   {"storage", "internal/taskstate", "internal/objects", "internal/catalogue", "internal/replid", "internal/queue", "internal/script", "internal/spelling"},
		"internal/observe":        {"tasks", "storage", "internal/catalogue", "internal/replid"},
		"internal/index":          {"tasks", "storage", "internal/catalogue", "internal/replid", "internal/observe"},
		"internal/usage":          {"tasks", "internal/budget", "storage", "internal/history", "internal/gate", "internal/catalogue", "internal/replid"},
		"internal/history":        {"tasks", "storage", "internal/catalogue", "internal/replid", "internal/gate"},
		"internal/webhook":        {"tasks", "storage", "internal/catalogue", "internal/replid", "internal/fetch"},
		"internal/events":         {"tasks", "storage", "internal/catalogue", "internal/replid"},
		"workersai":               {"internal/catalogue"},
		"workersai/workersaitest": {"workersai", "internal/catalogue", "internal/media"},
		"internal/keys":           {"storage"},
		"internal/budget":         {"storage", "internal/objects"},
		"internal/api":            {"internal/jsonsize", "internal/errtext", "internal/mergepatch", "tasks", "internal/budget", "storage", "internal/keys", "internal/monitor", "internal/gate", "internal/catalogue", "internal/replid", "internal/media", "internal/limits", "internal/events", "internal/index", "internal/observe", "internal/openai", "internal/api/openaiapi", "internal/batch", "internal/metrics", "internal/files", "internal/openaibatch", "internal/webhook", "internal/fetch", "workersai", "internal/api/ui", "internal/history", "internal/schedule", "internal/usage", "internal/bulk", "internal/traces"},
		"internal/traces":         {"tasks", "storage", "internal/catalogue", "internal/replid"},
		"internal/api/ui":         {"internal/errtext", "internal/mergepatch", "tasks", "internal/budget", "storage", "internal/keys", "internal/monitor", "internal/gate", "internal/catalogue", "internal/replid", "internal/index", "internal/observe", "internal/batch", "internal/history", "internal/schedule", "internal/usage", "internal/bulk", "internal/webhook", "internal/fetch"},
		"internal/bulk":           {"internal/errtext", "tasks", "storage", "internal/budget", "internal/history", "internal/usage", "internal/gate", "internal/catalogue", "internal/replid"},
		"internal/monitor":        {"tasks", "internal/budget", "storage", "internal/gate", "internal/catalogue", "internal/replid"},
		"internal/metrics":        {"tasks", "internal/budget", "storage", "internal/monitor", "internal/gate", "internal/catalogue", "internal/replid", "internal/webhook", "internal/fetch", "workersai"},
		"internal/schedule":       {"internal/errtext", "internal/mergepatch", "tasks", "internal/budget", "storage", "internal/catalogue", "internal/replid", "internal/batch", "internal/objects", "internal/usage", "internal/history", "internal/gate"},
		"internal/openai":         {"internal/jsonsize", "tasks", "storage", "internal/catalogue", "internal/replid"},
		"internal/batch":          {"internal/errtext", "tasks", "internal/mergepatch", "internal/budget", "storage", "internal/catalogue", "internal/replid", "internal/usage", "internal/history", "internal/gate"},
		"internal/files":          {"storage", "internal/objects"},
		"internal/openaibatch":    {"internal/errtext", "internal/mergepatch", "internal/jsonsize", "tasks", "internal/budget", "storage", "internal/catalogue", "internal/replid", "internal/batch", "internal/openai", "internal/files", "internal/objects", "internal/webhook", "internal/fetch", "internal/usage", "internal/history", "internal/gate"},
		"internal/maintenance":    {"tasks", "storage", "internal/gate", "internal/catalogue", "internal/replid"},
		"internal/engine":         {"tasks", "internal/budget", "workersai", "storage", "internal/gate", "internal/maintenance", "internal/objects", "internal/liveness", "internal/catalogue", "internal/failpoint", "internal/replid"},
	}
	for pkg, allowed := range leaves {
		if slices.Contains(allowed, "tasks") {
			allowed = append(allowed, leaves["tasks"]...)
		}
		for _, dep := range imports(t, pkg) {
			own, ok := strings.CutPrefix(dep, module)
			if ok && own != pkg {
				require.Contains(t, allowed, own, "%s imports %s", pkg, own)
			}
		}
	}
}

// direct returns the packages that the files of a package import themselves.
func direct(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{join .Imports "\n"}}`, module+pkg).Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

// The work of a kind goes through engine.Call: it touches neither bucket nor Redis by itself.
func TestHandlersReachBucketAndRedisThroughTheEngineOnly(t *testing.T) {
	for _, dep := range direct(t, "handlers") {
		require.NotContains(t, dep, module+"storage")
		for _, wall := range []string{"redis", "asynq", "internal/gate", "internal/maintenance", "internal/objects"} {
			require.NotContains(t, dep, wall)
		}
	}
}

// The engine asks the table of handlers about kinds, and package queue about the queue.
func TestTheEngineNamesNoKindAndNoKeyOfTheQueue(t *testing.T) {
	files, err := filepath.Glob("../internal/engine/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	kind := regexp.MustCompile(`tasks\.Kind[A-Z]`)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NotRegexp(t, kind, string(text), f)
		require.NotContains(t, string(text), "asynq:", f)
	}
}

func TestAProducerLinksNeitherServersNorTheAWSSDK(t *testing.T) {
	for _, dep := range imports(t, "tasks") {
		for _, heavy := range []string{"aws/", "miniredis", "versity", "kong", "mpb", "goccy", "prometheus", "opentelemetry"} {
			require.NotContains(t, dep, heavy)
		}
	}
}
