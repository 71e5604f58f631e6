package realtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// find returns the path of a program. Without the program the test is skipped and the run
// says so; under CI=true the test fails.
func find(t *testing.T, how string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not on PATH: %s", names[0], how)
	}
	announce(names[0], how)
	t.Skipf("SKIPPED, NOT TESTED: %s is not on PATH: %s", names[0], how)
	return ""
}

// NeedNPM returns a folder in which node finds the given packages of npm, "name@version".
// Without node and npm the test is skipped; under CI=true it fails.
func NeedNPM(t *testing.T, packages ...string) (dir string) {
	t.Helper()
	find(t, "apt-get install nodejs npm", "node")
	npm := find(t, "apt-get install npm", "npm")
	dir = t.TempDir()
	args := append([]string{"install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"}, packages...)
	install := exec.CommandContext(t.Context(), npm, args...) //nolint:gosec // the packages are constants of tests
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm install %v: %v\n%s", packages, err, out)
	}
	return dir
}

var (
	announcedMu sync.Mutex
	announced   = map[string]bool{} // by program
)

// announce reports skipped tests once per package and program. Without -v, go test hides
// the output of passing packages. So the message goes to the standard error of go test
// itself.
func announce(program, how string) {
	announcedMu.Lock()
	defer announcedMu.Unlock()
	if announced[program] {
		return
	}
	announced[program] = true
	out, err := goTestStderr()
	if err != nil {
		return // with -v, t.Skip reports it
	}
	defer out.Close()
	name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".test")
	fmt.Fprintf(out, "SKIPPED, NOT TESTED: what needs %s in package %s; get it by: %s\n", program, name, how)
}

// goTestStderr opens the standard error of the go command that runs this test, else the
// terminal.
func goTestStderr() (*os.File, error) {
	parent := fmt.Sprintf("/proc/%d", os.Getppid())
	if program, err := os.Readlink(parent + "/exe"); err == nil && filepath.Base(program) == "go" {
		if out, err := os.OpenFile(parent+"/fd/2", os.O_WRONLY|os.O_APPEND, 0); err == nil {
			return out, nil
		}
	}
	return os.OpenFile("/dev/tty", os.O_WRONLY, 0)
}
