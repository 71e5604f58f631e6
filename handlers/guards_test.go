package handlers_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/stretchr/testify/require"
)

// without is the environment variable that switches protections off in every rig:
//
//	NEURONMILL_TEST_WITHOUT=create-only go test ./handlers -run TestName
const without = "NEURONMILL_TEST_WITHOUT"

func switchedOff() []string {
	return strings.FieldsFunc(os.Getenv(without), func(r rune) bool { return r == ',' })
}

// twins names, for each protection, the test that must fail without it.
var twins = map[string]string{
	"result-first": "TestATaskThatHasAResultIsNotPaidAgain",
	"create-only":  "TestTheFirstResultStands",
	"detached":     "TestARunningCallOutlivesTheStopOfItsWorker",
	"one-run":      "TestAWipedRedisCostsARunningTaskNoSecondCall",
	"holder":       "TestAWorkerThatLivesKeepsItsTaskWhileRedisIsAway",
	"lineage":      "TestATaskThatRedisGivesOutTwiceIsPaidOnce",
	"count":        "TestACallThatCannotBeCountedIsNotSent",
	"fence":        "TestAWorkerThatWasAwaySendsNoCallForATaskThatWasTakenFromIt",
	"hold":         "TestABucketThatIsAwayForAWhileCostsNoSecondCall",
	"storable":     "TestABucketWithoutCreateOnlyWritesCostsNoCall",
	"answer":       "TestAPaidPictureIsNotPaidForAgain",
	"clean":        "TestABrokenByteInAnErrorDoesNotKeepItsTask",
	"recover":      "TestAPanicInAGoroutineOfAHandlerEndsItsTaskAlone",
	"drain":        "TestAStoppingWorkerSendsNoCallAndStoresTheRunningOnes",
	"linger":       "TestAStoppingWorkerWaitsForACallWhoseLeaseItLost",
	"cancel":       "TestACancelledTaskEndsInAnyState",
	"deadline":     "TestATaskWhoseDeadlinePassedInTheQueueSendsNoCall",
	"poison":       "TestATaskThatKillsItsWorkersIsPoisonedAndItsNeighboursAreNot",
	"alone":        "TestATaskThatKillsItsWorkersIsPoisonedAndItsNeighboursAreNot",
	"leases":       "TestATaskOfADeadWorkerComesBackWithinFortySeconds",
	"stranded":     "TestAnActiveTaskWithoutALeaseComesBack",
	"corrupt":      "TestADamagedMessageDoesNotStopTheRecoveryOfOthers",
	"expired":      "TestExpiredTasksEndWhereverTheyWait",
	"archived":     "TestAnArchivedTaskGetsItsFailureDocument",
	"pending":      "TestAPendingRecordThatTheQueueLostRunsAgain",
	"park":         "TestASlowModelDoesNotHoldUpTheOthersOfItsKindAndKeepsItsOrder",
	"split":        "TestABadTextFailsAloneAndNoneIsSentOften",
	"damp":         "TestARedisThatRefusesIsNotAskedWithoutPause",
}

// A test of a protection that passes without the protection shows nothing. Each runs
// in a process of its own, since it is meant to fail there.
func TestEachProtectionsTestFailsWithoutIt(t *testing.T) {
	if os.Getenv(without) != "" || os.Getenv("NEURONMILL_TEST_TWINS") == "" {
		t.Skip("takes minutes: NEURONMILL_TEST_TWINS=1 runs it")
	}
	for _, guard := range handlers.Guards() {
		name := twins[guard]
		require.NotEmpty(t, name, "no test shows that the protection %q is needed", guard)
		t.Run(guard, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+name+"$", "-test.v", "-test.timeout=5m")
			cmd.Env = append(os.Environ(), without+"="+guard)
			out, err := cmd.CombinedOutput()
			require.Contains(t, string(out), "=== RUN   "+name, "there is no such test")
			if strings.Contains(string(out), "SKIPPED, NOT TESTED") {
				t.Skip("its test is skipped here")
			}
			require.Error(t, err, "%s passes without the protection", name)
			require.NotContains(t, string(out), "panic: test timed out", "it does not end, which shows nothing")
		})
	}
}
