package limit

import (
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Rule is a line of the gate's scripts, and what stands there when it is switched off.
type Rule struct {
	Line, Without string
	Test          string // that must fail without it
}

// Rules are what the gate protects with.
var Rules = map[string]Rule{
	"pace":     {"local early = slot - now", "local early = 0", "TestAFleetKeepsToThePaceAndUsesIt"},
	"lanes":    {"elseif lane == 'interactive' then\n  if early", "elseif true then\n  if early", "TestInteractiveWaitsAtMostOneSlotBehindBulk"},
	"share":    {"put('credit', math.min(", "put('ignored', math.min(", "TestBulkKeepsItsShareWhenInteractiveTakesAll"},
	"close":    {"if closed > now then", "if false then", "TestOneRefusalClosesTheGateForAllAndOneProbeOpensIt"},
	"probe":    {"elseif since + PROBE > now then", "elseif false then", "TestOneRefusalClosesTheGateForAllAndOneProbeOpensIt"},
	"reprobe":  {"elseif since + PROBE > now then", "elseif true then", "TestAProbeThatDiesDoesNotHoldTheGate"},
	"backoff":  {"math.min(5000000 * 2 ^ (fails - 1), 60000000)", "5000000", "TestARefusedProbeClosesForLongerEachTime"},
	"flight":   {"local news = granted > tonumber(g.shut or '0')", "local news = true", "TestThePaceFallsOncePerFlightAndHeals"},
	"learn":    {"put('factor', math.max(0.02, factor * 0.8))", "", "TestThePaceFallsOncePerFlightAndHeals"},
	"heal":     {"factor = factor + a_minute /", "factor = factor + 0 /", "TestThePaceFallsOncePerFlightAndHeals"},
	"narrow":   {"if g.width and flight", "if false and flight", "TestNoCapacityNarrowsAndHeals"},
	"quota":    {"if outcome == 'quota' then", "if false then", "TestASpentDayClosesAllModelsUntilMidnightOfRedis"},
	"midnight": {"if now % day < 900000000 and", "if false and", "TestASpentDayClosesAllModelsUntilMidnightOfRedis"},
	"confirm":  {"if not g.auth then", "if false then", "TestARefusedAccountWaitsForAPersonAfterOneCallThatConfirms"},
	"hold":     {"if g.hold then return answer(", "if false then return answer(", "TestARefusedAccountWaitsForAPersonAfterOneCallThatConfirms"},
	"dead":     {"now - tonumber(at) > STALE", "false", "TestADeadWorkersCallsAreForgotten"},
	"clock":    {"then after = now end", "then after = after end", "TestAClockThatWasSetBackDoesNotHoldTheGate"},
}

// Without is the environment variable that names the rule to switch off.
const Without = "NEURONMILL_TEST_WITHOUT"

func init() {
	off, ok := Rules[os.Getenv(Without)]
	if !ok {
		return
	}
	ask = redis.NewScript(strings.Replace(askLua, off.Line, off.Without, 1))
	report = redis.NewScript(strings.Replace(reportLua, off.Line, off.Without, 1))
}

// Has reports whether the rules have a line.
func Has(line string) bool { return strings.Contains(askLua+reportLua, line) }
