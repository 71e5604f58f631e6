-- Requeues a task of a dead worker at the head of its queue, unless its lease was renewed
-- meanwhile. A task without a message is removed. A task may have a lease and the state
-- "active" but be missing from the list of active tasks, when Redis' file was cut within a
-- transaction; it is requeued too.
--
-- KEYS     leases, list of active tasks, list of pending tasks, task
-- ARGV     id, latest end of the lease (s), time (ns)
-- reply    1 when the task was requeued, else 0

local lease = redis.call("ZSCORE", KEYS[1], ARGV[1])
if not lease or tonumber(lease) > tonumber(ARGV[2]) then return 0 end
redis.call("ZREM", KEYS[1], ARGV[1])
local active = redis.call("LREM", KEYS[2], 1, ARGV[1]) > 0
if not active and redis.call("HGET", KEYS[4], "state") ~= "active" then return 0 end
if redis.call("HEXISTS", KEYS[4], "msg") == 0 then
  redis.call("DEL", KEYS[4])
  return 0
end
redis.call("HSET", KEYS[4], "state", "pending", "pending_since", ARGV[3])
wake(KEYS[3], ARGV[1], redis.call("RPUSH", KEYS[3], ARGV[1]))
return 1
