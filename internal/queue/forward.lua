-- Moves due tasks to the end of their queue, at most 100 to bound how long it blocks Redis.
--
-- KEYS     scheduled tasks or retries, list of pending tasks
-- ARGV     time (s), prefix of the tasks' keys, time (ns)
-- reply    the number of moved tasks

local ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", ARGV[1], "LIMIT", 0, 100)
for _, id in ipairs(ids) do
  redis.call("ZREM", KEYS[1], id)
  redis.call("HSET", ARGV[2] .. id, "state", "pending", "pending_since", ARGV[3])
  wake(KEYS[2], id, redis.call("LPUSH", KEYS[2], id))
end
return #ids
