package queue

import (
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// Heartbeat describes a server of a worker process as of its last heartbeat.
type Heartbeat struct {
	Host     string
	PID      int
	Started  time.Time
	Stopping bool
	Slots    []Occupancy // in no order
}

// Occupancy tells how a server's slots for one queue are used.
type Occupancy struct {
	Queue       string
	Slots, Busy int // most tasks at a time, and tasks now
}

// Heartbeats reads the heartbeats of all servers.
func Heartbeats(r redis.UniversalClient) ([]Heartbeat, error) {
	servers, err := asynq.NewInspectorFromRedisClient(r).Servers()
	if err != nil {
		return nil, fmt.Errorf("list the workers: %w", err)
	}
	all := make([]Heartbeat, len(servers))
	for i, s := range servers {
		all[i] = Heartbeat{Host: s.Host, PID: s.PID, Started: s.Started, Stopping: s.Status == "stopped" || s.Status == "closed"}
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
