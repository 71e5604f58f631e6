package tasks_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/neuronmill/neuronmill/"

// imports are the packages that each package links, of this module or others.
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
		"internal/limit":          {},
		"internal/media":          {},
		"tasks":                   {"storage", "internal/catalogue", "internal/replid"},
		"workersai":               {"internal/catalogue"},
		"workersai/workersaitest": {"workersai", "internal/catalogue", "internal/media"},
		"internal/schedule":       {"tasks", "storage", "internal/catalogue", "internal/replid"},
		"handlers":                {"tasks", "workersai", "storage", "internal/limit", "internal/catalogue", "internal/media", "internal/failpoint", "internal/replid"},
	}
	for pkg, allowed := range leaves {
		for _, dep := range imports(t, pkg) {
			own, ok := strings.CutPrefix(dep, module)
			if ok && own != pkg {
				require.Contains(t, allowed, own, "%s imports %s", pkg, own)
			}
		}
	}
}

func TestAProducerLinksNeitherServersNorTheAWSSDK(t *testing.T) {
	for _, dep := range imports(t, "tasks") {
		for _, heavy := range []string{"aws/", "miniredis", "versity", "kong", "mpb", "goccy"} {
			require.NotContains(t, dep, heavy)
		}
	}
}
