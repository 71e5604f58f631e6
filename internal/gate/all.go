package gate

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed all.lua
var allLua string

var allScript = redis.NewScript(allLua)

// All gives all gates that were ever used, in order of name, as States without names does.
// It reads them with one command on a Redis that is no cluster.
func (g *Gate) All(ctx context.Context) ([]State, error) {
	if _, cluster := g.cfg.Redis.(*redis.ClusterClient); cluster {
		return g.States(ctx)
	}
	before, after, _ := strings.Cut(Key("\x00"), "\x00")
	reply, err := allScript.Run(ctx, g.cfg.Redis, []string{index}, before, after).Slice()
	if err != nil || len(reply) < 2 {
		return nil, fmt.Errorf("read the gates: %w", err)
	}
	number := func(v any) int64 { n, _ := strconv.ParseInt(fmt.Sprint(v), 10, 64); return n }
	now := time.UnixMicro(number(reply[0])*1_000_000 + number(reply[1]))
	var states []State
	for i := 2; i+1 < len(reply); i += 2 {
		name := fmt.Sprint(reply[i])
		cells, _ := reply[i+1].([]any)
		fields := map[string]string{}
		for k := 0; k+1 < len(cells); k += 2 {
			fields[fmt.Sprint(cells[k])] = fmt.Sprint(cells[k+1])
		}
		states = append(states, stateOf(name, fields, now, g.tablePace(name)))
	}
	slices.SortFunc(states, func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
	return states, nil
}
