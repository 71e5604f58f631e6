package engine_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

// The list is what each task costs Redis, from its enqueueing to its end: a change that
// adds a command shows here. It has the commands that name the task.
func TestATaskOfOneCallCostsTheseCommands(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.work()
		r.wait(r.enqueue(tasks.Translation{Text: "loads the scripts", TargetLang: "es"}))
		time.Sleep(time.Second) // the gate has a slot again

		counted := r.server.CountAbout("t_0") // all ids of tasks begin so
		id := r.enqueue(tasks.Translation{Text: "hi", TargetLang: "es"})
		synctest.Wait()
		require.Equal(t, map[string]int{
			// Enqueued: HMGET, HSET, LPUSH, PUBLISH into an empty queue, ZADD of the deadline, and the script.
			// Taken and acknowledged by asynq: HSET, HDEL, ZADD, HGET; LREM, ZREM, DEL, and a script.
			// Claimed with its call: HMGET, HSET, EXPIREAT, and the script.
			// Ended: HSET, HDEL, EXPIRE, PUBLISH to waiters, the script, and ZREM of the deadline.
			"DEL": 1, "EVALSHA": 4, "EXPIRE": 1, "EXPIREAT": 1, "HDEL": 2, "HGET": 1, "HMGET": 2, "HSET": 4,
			"LPUSH": 1, "LREM": 1, "PUBLISH": 2, "ZADD": 2, "ZREM": 2,
		}, counted())
		require.Equal(t, tasks.Completed, r.wait(id).Status)
	})
}
