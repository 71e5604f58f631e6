package queue

// prefix begins all of asynq's keys of a queue.
func prefix(queue string) string { return "asynq:{" + queue + "}:" }

// The keys of asynq: lists of ids of pending and active tasks, sorted sets of ids of the
// others, and the leases of active tasks.
func pendingKey(queue string) string   { return prefix(queue) + "pending" }
func activeKey(queue string) string    { return prefix(queue) + "active" }
func leaseKey(queue string) string     { return prefix(queue) + "lease" }
func scheduledKey(queue string) string { return prefix(queue) + "scheduled" }
func retryKey(queue string) string     { return prefix(queue) + "retry" }
func archivedKey(queue string) string  { return prefix(queue) + "archived" }
func pausedKey(queue string) string    { return prefix(queue) + "paused" }

// taskPrefix begins the keys of a queue's tasks, which are hashes.
func taskPrefix(queue string) string { return prefix(queue) + "t:" }

func taskKey(queue, id string) string { return taskPrefix(queue) + id }

// The keys of asynq that span all queues.
const (
	queuesKey  = "asynq:queues"
	serversKey = "asynq:servers"
	workersKey = "asynq:workers"
)

// DeferredKey returns the key of a queue's deferred tasks, which wait for the gate of a
// model: a sorted set of ids by time of acceptance.
func DeferredKey(queue, model string) string { return "neuronmill:parked:{" + queue + "}:" + model }

// ModelsKey returns the key of the set of models in a queue's tasks since the queue was
// last empty.
func ModelsKey(queue string) string { return "neuronmill:models:{" + queue + "}" }

// DeadlinesKey returns the key of the deadlines of a queue's tasks that have not ended: a
// sorted set of ids.
func DeadlinesKey(queue string) string { return "neuronmill:deadlines:{" + queue + "}" }

// damagedKey returns the key of a damaged message outside the queue.
func damagedKey(queue, id string) string { return "neuronmill:corrupt:{" + queue + "}:" + id }
