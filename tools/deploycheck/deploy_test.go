package deploycheck_test

import (
	"os"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/stretchr/testify/require"
)

func compose(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"../../docker-compose.yml"}, cli.WithEnv(env), cli.WithName("neuronmill"))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	return project
}

// The settings decide as internal/app reads them: an account first, else the emulator.
func TestComposeUsesTheEmulatorUnlessAnAccountIsSet(t *testing.T) {
	project := compose(t)
	for _, name := range []string{"setup", "worker", "scheduler"} {
		env := project.Services[name].Environment
		require.Empty(t, *env["CLOUDFLARE_ACCOUNT_ID"], name)
		require.Empty(t, *env["CLOUDFLARE_BASE_URL"], name)
		require.Equal(t, "http://emulator:8787/client/v4", *env["NEURONMILL_EMULATOR_URL"], name)
		require.Equal(t, *project.Services["emulator"].Environment["NEURONMILL_EMULATOR_TOKEN"], *env["NEURONMILL_EMULATOR_TOKEN"], name)
	}
	require.Equal(t, 2, *project.Services["worker"].Deploy.Replicas)

	worker := compose(t, "CLOUDFLARE_ACCOUNT_ID=acc", "CLOUDFLARE_API_TOKEN=tok").Services["worker"]
	require.Equal(t, "acc", *worker.Environment["CLOUDFLARE_ACCOUNT_ID"])
	require.Empty(t, *worker.Environment["CLOUDFLARE_BASE_URL"], "the API itself")
	require.NotContains(t, compose(t, "CLOUDFLARE_API_TOKEN=tok").Services["emulator"].Environment, "CLOUDFLARE_API_TOKEN")
}

func TestComposeKeepsTasksAndListensOnThisMachineOnly(t *testing.T) {
	project := compose(t)
	redis := strings.Join(project.Services["redis"].Command, " ")
	require.Contains(t, redis, "--appendonly yes")
	require.Contains(t, redis, "--maxmemory-policy noeviction")
	require.NotNil(t, project.Services["redis"].HealthCheck)
	for name, service := range project.Services {
		for _, port := range service.Ports {
			require.Equal(t, "127.0.0.1", port.HostIP, name)
		}
	}
}

func TestTheImageIsStaticAndNotRoot(t *testing.T) {
	file, err := os.Open("../../deploy/Dockerfile")
	require.NoError(t, err)
	defer file.Close()
	parsed, err := parser.Parse(file)
	require.NoError(t, err)
	require.Empty(t, parsed.Warnings)
	stages, _, err := instructions.Parse(parsed.AST, nil)
	require.NoError(t, err)
	last := stages[len(stages)-1]
	require.Contains(t, last.BaseName, "distroless/static")
	var user string
	for _, command := range last.Commands {
		if u, ok := command.(*instructions.UserCommand); ok {
			user = u.User
		}
		if e, ok := command.(*instructions.EntrypointCommand); ok {
			require.False(t, e.PrependShell, "there is no shell")
		}
	}
	require.Equal(t, "nonroot", user)
}
