// Package queue keeps the tasks in asynq's queues in Redis. It is the only package that
// knows the keys and messages of asynq v0.26.
//
//   - keys.go, message.go: the names of keys, and the encoding of a queued task
//   - push.go: many tasks enter a queue in one round trip
//   - find.go, remove.go: reads tasks, and removes those that ended while they waited
//   - lease.go: returns the tasks of dead workers
//   - deferred.go, models.go: tasks that wait outside the queue until their gate has room
//   - due.go: moves due tasks into their queue, and announces queues with pending tasks
//   - server.go: the asynq server of a worker, its settings and log
//   - intake.go, wake.go: takes of empty queues wait for an announcement instead of polling
//   - breaker.go, outage.go: the circuit breaker for a Redis that refuses
//
// A queue holds the tasks of one kind and lane: "text:bulk". Its keys share a hash tag, so
// that they are in one slot of a cluster.
package queue
