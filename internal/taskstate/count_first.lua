-- Claims a new task and counts its first call. It refuses a task that was run before or is
-- cancelled. The run's random name identifies a repeat that the client sends after a lost
-- reply.
--
-- KEYS: record
-- ARGV: owner, expiry (Unix seconds), run, name of Redis' memory
-- Reply: 1, or 0 when the task is not new
local had = redis.call("HMGET", KEYS[1], "holder", "ended", "cancelled", "crashes", "calls", "attempts", "run")
if had[1] == ARGV[1] and had[7] == ARGV[3] then return 1 end
if had[1] and had[1] ~= ARGV[1] or had[2] or had[3] or had[4] or (had[5] or "0") ~= "0" or (had[6] or "0") ~= "0" then return 0 end
redis.call("HSET", KEYS[1], "holder", ARGV[1], "calls", 1, "attempts", 1, "run", ARGV[3], "memory", ARGV[4])
redis.call("EXPIREAT", KEYS[1], ARGV[2])
return 1
