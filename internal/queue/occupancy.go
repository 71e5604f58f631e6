package queue

import (
	"fmt"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// ReadOccupancy lists the servers that live, with their busy slots. It reads the running
// tasks of each server, at some commands a server.
func ReadOccupancy(r redis.UniversalClient) ([]ServerInfo, error) {
	servers, err := asynq.NewInspectorFromRedisClient(r).Servers()
	if err != nil {
		return nil, fmt.Errorf("list the workers: %w", err)
	}
	all := make([]ServerInfo, len(servers))
	for i, s := range servers {
		all[i] = ServerInfo{Host: s.Host, PID: s.PID, Started: s.Started, Stopping: s.Status == "stopped" || s.Status == "closed"}
		busy := map[string]int{}
		for _, active := range s.ActiveWorkers {
			busy[active.Queue]++
		}
		for name, slots := range s.Queues {
			if len(s.Queues) == 1 { // a worker of an earlier version: its weight says nothing
				slots = s.Concurrency
			}
			all[i].Slots = append(all[i].Slots, Occupancy{Queue: name, Slots: slots, Busy: busy[name]})
		}
	}
	return all, nil
}
