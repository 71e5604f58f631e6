package deploycheck_test

import (
	"os"
	"regexp"
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
	options, err := cli.NewProjectOptions([]string{"../../docker-compose.yml"}, cli.WithEnv(env), cli.WithName("neuronmill"), cli.WithDefaultProfiles())
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	return project
}

// The settings have the precedence of internal/app: an account first, else the emulator.
func TestComposeUsesTheEmulatorUnlessAnAccountIsSet(t *testing.T) {
	project := compose(t, "SCHEDULERS=1")
	for _, name := range []string{"setup", "worker", "serve", "scheduler"} {
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

func TestComposeLeavesOutWhatAnAccountDoesNotNeed(t *testing.T) {
	require.ElementsMatch(t, []string{"redis", "s3", "setup", "worker", "serve", "scheduler", "emulator"}, compose(t).ServiceNames())
	require.ElementsMatch(t, []string{"redis", "s3", "setup", "worker", "serve", "scheduler"}, compose(t, "CLOUDFLARE_ACCOUNT_ID=acc").ServiceNames())
}

func TestTheExampleSchedulesCostNothingUntilAsked(t *testing.T) {
	require.Zero(t, *compose(t).Services["scheduler"].Deploy.Replicas)
	require.Equal(t, 1, *compose(t, "SCHEDULERS=1").Services["scheduler"].Deploy.Replicas)
}

// It refuses to listen beyond loopback without a key, and nobody has one at first.
func TestTheServerStartsWhenItIsAskedFor(t *testing.T) {
	require.Zero(t, *compose(t).Services["serve"].Deploy.Replicas)
	require.Equal(t, 1, *compose(t, "SERVERS=1").Services["serve"].Deploy.Replicas)
}

// Parallel builds of one tag would conflict, and unchanged containers would be recreated.
func TestOneServiceBuildsTheImageAndNoneIsPulled(t *testing.T) {
	builders := 0
	for name, service := range compose(t, "SCHEDULERS=1").Services {
		if service.Image != "neuronmill" {
			continue
		}
		require.Equal(t, types.PullPolicyNever, service.PullPolicy, name)
		if service.Build != nil {
			builders++
		}
	}
	require.Equal(t, 1, builders)
	require.Equal(t, "no", compose(t).Services["setup"].Restart, "what is wrong for good must end docker compose up")
}

// env.example and the compose file list the same settings.
func TestEnvExampleListsEverySetting(t *testing.T) {
	example, err := os.ReadFile("../../deploy/env.example")
	require.NoError(t, err)
	file, err := os.ReadFile("../../docker-compose.yml")
	require.NoError(t, err)
	read, listed := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`\$\{([A-Z0-9_]+)`).FindAllSubmatch(file, -1) {
		read[string(m[1])] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^#([A-Z0-9_]+)=`).FindAllSubmatch(example, -1) {
		listed[string(m[1])] = true
	}
	require.Equal(t, read, listed)
}

func TestSecretsOfEnvStayOutOfGitAndImage(t *testing.T) {
	for _, name := range []string{"../../.gitignore", "../../.dockerignore"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Regexp(t, `(?m)^/?\.env$`, string(text), name)
	}
}

func TestEveryServiceIsBoundedInMemoryAndLogs(t *testing.T) {
	for name, service := range compose(t, "SCHEDULERS=1").Services {
		require.NotNil(t, service.Logging, name)
		require.NotEmpty(t, service.Logging.Options["max-size"], name)
		if name != "redis" { // Redis holds the waiting tasks in memory
			require.NotZero(t, service.MemLimit, name)
		}
	}
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
	require.Equal(t, "65532:65532", user, "Kubernetes' runAsNonRoot needs a number")
}
