-- Enqueues a task, unless its id is queued already. A task that ended while it was pending
-- has left a tombstone in the list; a new task with the same id takes over its position.
--
-- KEYS[1]  task: a hash
-- KEYS[2]  list of pending tasks
-- KEYS[3]  set of the queue's models
-- KEYS[4]  deadlines
-- ARGV     message, id, time (ns), turn, model, deadline (s)
-- reply    1 when the task was enqueued, 2 when a worker is about to acknowledge the tombstone,
--          else the queued message

local had = redis.call("HMGET", KEYS[1], "ended", "state", "msg")
if had[1] and had[2] == "active" then
  return 2
elseif had[1] and had[2] == "pending" then
  redis.call("HSET", KEYS[1], "msg", ARGV[1], "turn", ARGV[4])
  redis.call("HDEL", KEYS[1], "ended")
elseif had[2] or had[3] then
  return had[3] or ""
else
  redis.call("HSET", KEYS[1], "msg", ARGV[1], "state", "pending", "pending_since", ARGV[3], "turn", ARGV[4])
  wake(KEYS[2], ARGV[2], redis.call("LPUSH", KEYS[2], ARGV[2]))
end
redis.call("SADD", KEYS[3], ARGV[5])
redis.call("ZADD", KEYS[4], ARGV[6], ARGV[2])
return 1
