-- Gives an active task without a lease a new one. A task without a message is removed.
--
-- KEYS     leases, list of active tasks, task
-- ARGV     id, end of the new lease (s)
-- reply    1 when the task got a lease, else 0

if redis.call("ZSCORE", KEYS[1], ARGV[1]) then return 0 end
if not redis.call("LPOS", KEYS[2], ARGV[1]) then return 0 end
if redis.call("HEXISTS", KEYS[3], "msg") == 0 then
  redis.call("LREM", KEYS[2], 0, ARGV[1])
  redis.call("DEL", KEYS[3])
  return 0
end
redis.call("ZADD", KEYS[1], ARGV[2], ARGV[1])
return 1
