-- Removes an ended task from its queue. Searching a long list of pending tasks would block
-- Redis, so a pending task becomes a tombstone.
--
-- KEYS[1]    task: a hash
-- KEYS[2]    deadlines
-- KEYS[3]    deferred tasks of its model
-- KEYS[4..]  sorted sets that may hold the task
-- ARGV       id, message of the tombstone
-- reply      1 when the task was removed, 0 when it is active or unknown

local state = redis.call("HGET", KEYS[1], "state")
if not state or state == "active" then return 0 end
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("ZREM", KEYS[3], ARGV[1])
if state == "pending" then
  redis.call("HSET", KEYS[1], "msg", ARGV[2], "ended", 1)
  redis.call("HDEL", KEYS[1], "turn", "pending_since")
  return 1
end
for i = 4, #KEYS do redis.call("ZREM", KEYS[i], ARGV[1]) end
redis.call("DEL", KEYS[1])
return 1
