package main

import (
	"strconv"
	"strings"
	"time"
)

// redisUse counts the work of Redis since its start.
type redisUse struct {
	commands int64 // includes commands called by scripts
	cpu      time.Duration
	memory   int64
}

func (s *site) redisUse() (redisUse, error) {
	info, err := s.redis.InfoMap(s.ctx, "commandstats", "cpu", "memory").Result()
	if err != nil {
		return redisUse{}, err
	}
	var u redisUse
	for _, stats := range info["Commandstats"] { // calls=12,usec=...
		calls, _, _ := strings.Cut(strings.TrimPrefix(stats, "calls="), ",")
		n, _ := strconv.ParseInt(calls, 10, 64)
		u.commands += n
	}
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, _ := strconv.ParseFloat(info["CPU"][field], 64)
		u.cpu += time.Duration(seconds * float64(time.Second))
	}
	u.memory, _ = strconv.ParseInt(info["Memory"]["used_memory"], 10, 64)
	return u, nil
}

func (u redisUse) since(before redisUse) redisUse {
	return redisUse{u.commands - before.commands, u.cpu - before.cpu, u.memory - before.memory}
}
