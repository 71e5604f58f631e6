package handlers

// guard names a protection. Each can be switched off in tests, so that a test shows
// that it would fail without it; outside tests all are on.
type guard string

// The protections. guards_test.go names the test that fails without each.
const (
	guardResultFirst guard = "result-first" // a task that has a result is not run again
	guardCreateOnly  guard = "create-only"  // the first result stands
	guardDetached    guard = "detached"     // a lost lease or a stopping worker does not end a call
	guardOneRun      guard = "one-run"      // a process runs a task once at a time
	guardHolder      guard = "holder"       // nobody runs a task that a living worker is at
	guardLineage     guard = "lineage"      // a task that Redis may have given out twice waits
	guardCount       guard = "count"        // a call that cannot be counted is not sent
	guardFence       guard = "fence"        // a process sends no call for a task that was taken from it
	guardHold        guard = "hold"         // a paid answer is held while the bucket does not take it
	guardStorable    guard = "storable"     // no call is sent while the bucket could not take its result
	guardAnswer      guard = "answer"       // a paid answer that is stored is not paid for again
	guardClean       guard = "clean"        // the queue is told clean text only
	guardRecover     guard = "recover"      // a panic ends its task, not the worker
	guardDrain       guard = "drain"        // no call starts once the worker is told to stop
	guardLinger      guard = "linger"       // a stopping worker waits for calls whose lease it lost
	guardCancel      guard = "cancel"       // a cancelled task sends no call
	guardDeadline    guard = "deadline"     // a task past its deadline sends no call
	guardPoison      guard = "poison"       // a task that killed its worker three times is failed
	guardAlone       guard = "alone"        // a suspect runs alone before it is failed
	guardLeases      guard = "leases"       // tasks of a dead worker come back soon
	guardStranded    guard = "stranded"     // active tasks without a lease come back
	guardCorrupt     guard = "corrupt"      // what cannot be decoded is put aside
	guardExpired     guard = "expired"      // tasks past their deadline end although nobody runs them
	guardArchived    guard = "archived"     // archived tasks get their failure document
	guardPending     guard = "pending"      // accepted tasks that Redis lost come back
	guardPark        guard = "park"         // a slow model leaves the slots to others
	guardSplit       guard = "split"        // a bad text does not fail those that ride with it
	guardDamp        guard = "damp"         // a Redis that refuses is not asked without pause
)

var guards = []guard{
	guardResultFirst, guardCreateOnly, guardDetached, guardOneRun, guardHolder, guardLineage, guardCount, guardFence, guardHold, guardStorable,
	guardAnswer, guardClean,
	guardRecover, guardDrain, guardLinger, guardCancel, guardDeadline, guardPoison, guardAlone, guardLeases, guardStranded, guardCorrupt,
	guardExpired, guardArchived, guardPending, guardPark, guardSplit, guardDamp,
}

// on reports whether a protection is in force.
func (c Config) on(g guard) bool { return !c.off[g] }
