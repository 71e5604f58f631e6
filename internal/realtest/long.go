package realtest

import "testing"

// Long leaves out a test with -short, because it takes some ten seconds or more with the race
// detector. The race step of .ci/run uses -short; .ci/nightly runs all tests.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out with -short: it takes long with the race detector")
	}
}
