-- Enqueues a task that starts later, unless its id is queued already. A tombstone with the
-- id is replaced, see push.lua: the task then starts at once.
--
-- KEYS[1]  task: a hash
-- KEYS[2]  scheduled tasks: a sorted set
-- KEYS[3]  set of the queue's models
-- KEYS[4]  deadlines
-- ARGV     message, id, start (s), turn, model, deadline (s)
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
  redis.call("HSET", KEYS[1], "msg", ARGV[1], "state", "scheduled", "turn", ARGV[4])
  redis.call("ZADD", KEYS[2], ARGV[3], ARGV[2])
end
redis.call("SADD", KEYS[3], ARGV[5])
redis.call("ZADD", KEYS[4], ARGV[6], ARGV[2])
return 1
